"""The checks of `nodekit doctor` for the place of keys. Nothing is written or made."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import anyio

from nodekit import (
    CompositionError,
    Configured,
    ExaminedFile,
    Finding,
    NodekitError,
    counted,
    folder_problem,
    open_records,
)
from nodekit_apikeys._file import KeyFileProblem, read_keys
from nodekit_apikeys._key import Key
from nodekit_apikeys._stored_keys import NAMESPACE, NO_KEYS, KeyRecordProblem, made_keys


def findings(file: ExaminedFile | None = None) -> Iterator[Finding]:
    """Report for each plugin `apikeys` of the node file what its next start would find in the place of its keys."""
    for one in file.of("plugin", "apikeys") if file else ():
        assert file is not None
        if one.config.keys == "store":
            yield from _of_store(one, file)
        else:
            yield from _of_file(one, file)


def _of_store(one: Configured, file: ExaminedFile) -> Iterator[Finding]:
    where = f"{one.where}.keys"
    if file.of("store", "memory"):
        text = "the store memory is known to the process of its node alone, so `nodekit keys` cannot make keys there"
        yield Finding("warning", where, text, "use another store, such as sqlite, or a file: path = …")
        return
    try:
        keys = None if _has_no_file(file) else anyio.run(_stored, file.file.path)
    except KeyRecordProblem as error:
        yield Finding.from_text("error", where, str(error))
    except CompositionError:  # the file does not compose, and says so
        return
    except NodekitError as error:
        yield Finding.from_text("note", where, f"the keys in the store cannot be read now: {error}")
    else:
        yield _judged(where, keys, "the store", NO_KEYS.partition("; ")[0], one, file)


def _has_no_file(file: ExaminedFile) -> bool:
    """Return True if the file of the store is still to be made by the first start."""
    paths = [getattr(one.config, "path", None) for one in file.components if one.kind == "store"]
    return any(isinstance(path, Path) and not os.path.exists(path) for path in paths)


async def _stored(path: Path) -> Sequence[Key] | None:
    async with open_records(path, NAMESPACE, create=False) as records:
        return await made_keys(records)


def _of_file(one: Configured, file: ExaminedFile) -> Iterator[Finding]:
    where, path = f"{one.where}.path", one.config.path
    problem = folder_problem(path.parent, write=True)
    try:
        keys, signature = read_keys(path)
    except KeyFileProblem as error:
        yield Finding.from_text("error", where, str(error))
        return
    if signature is None and folder_problem(path.parent):  # the doctor reports it for each path
        return
    if problem:
        yield Finding.from_text("warning", where, f"the last use of keys cannot be kept beside {path}: {problem}")
    made = None if signature is None else keys
    yield _judged(where, made, str(path), f"there is no file of keys at {path}", one, file)


def _judged(
    where: str, keys: Sequence[Key] | None, place: str, missing: str, one: Configured, file: ExaminedFile
) -> Finding:
    """Return who is let in by the keys of a place. None: nobody has made one yet, and `missing` says so."""
    anonymous, make = one.config.anonymous is not None, f"nodekit keys create {file.file.path.name} --name NAME"
    if keys is None and anonymous:
        return Finding("note", where, f"{missing}; callers without a key are let in", make)
    if keys is None:
        return Finding("warning", where, f"{missing}, so nobody is let in", make)
    valid = sum(key.state(time.time()) == "valid" for key in keys)
    if not valid and not anonymous:
        text = f"none of the {counted(len(keys), 'key')} in {place} is valid, so nobody is let in"
        return Finding("warning", where, text, make)
    return Finding("ok", where, f"{counted(valid, 'key')} of {len(keys)} in {place} can be used")
