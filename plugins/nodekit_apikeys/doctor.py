"""The checks of `nodekit doctor` for the place of keys. Nothing is written or made."""

import time
from collections.abc import Iterator

from nodekit import Configured, ExaminedFile, Finding, counted, folder_problem
from nodekit_apikeys._file import KeyFileProblem, read_keys


def findings(file: ExaminedFile | None = None) -> Iterator[Finding]:
    """Report for each plugin `apikeys` of the node file what its next start would find in the place of its keys."""
    for one in file.of("plugin", "apikeys") if file else ():
        assert file is not None
        if one.config.keys == "store":
            yield from _of_store(one, file)
        else:
            yield from _of_file(one, file.file.path.name)


def _of_store(one: Configured, file: ExaminedFile) -> Iterator[Finding]:
    if file.of("store", "memory"):
        text = "the store memory is known to the process of its node alone, so `nodekit keys` cannot make keys there"
        yield Finding("warning", f"{one.where}.keys", text, "use another store, such as sqlite, or a file: path = …")


def _of_file(one: Configured, node_file: str) -> Iterator[Finding]:
    where, path = f"{one.where}.path", one.config.path
    problem = folder_problem(path.parent, write=True)
    try:
        keys, signature = read_keys(path)
    except KeyFileProblem as error:
        text, _, cure = str(error).partition("; ")
        yield Finding("error", where, text, cure)
        return
    if signature is None and folder_problem(path.parent):  # the doctor reports it for each path
        return
    if problem:
        text, _, cure = problem.partition("; ")
        yield Finding("warning", where, f"the last use of keys cannot be kept beside {path}: {text}", cure)
    anonymous = one.config.anonymous is not None
    valid = sum(key.state(time.time()) == "valid" for key in keys)
    make = f"nodekit keys create {node_file} --name NAME"
    if signature is None:
        text = f"there is no file of keys at {path}"
        yield (
            Finding("note", where, f"{text}; callers without a key are let in", make)
            if anonymous
            else Finding("warning", where, f"{text}, so nobody is let in", make)
        )
    elif not valid and not anonymous:
        text = f"none of the {counted(len(keys), 'key')} in {path} is valid, so nobody is let in"
        yield Finding("warning", where, text, make)
    else:
        yield Finding("ok", where, f"{counted(valid, 'key')} of {len(keys)} in {path} can be used")
