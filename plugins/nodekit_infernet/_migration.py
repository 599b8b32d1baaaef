"""The migration of an Infernet node's ``config.json`` to a node file in TOML."""

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from nodekit import Secret
from nodekit_infernet._draft import Draft, Reference
from nodekit_infernet._reading import read_config
from nodekit_infernet._shapes import is_list, is_table
from nodekit_infernet._toml import document
from nodekit_infernet._translation import translated

FILE_MODE, FOLDER_MODE = 0o600, 0o700
"""Modes of what is written: the operator's own."""
LONGEST_IN_FILE = 1 << 16
"""Maximum number of bytes of a secret that a node reads from a file."""

_HEAD = (
    "Written by `nodekit migrate` from the config.json of an Infernet node. Comments say what has changed, and why.",
    "Relative paths are relative to this file: keep it where config.json is. `nodekit check` says whether it is right.",
)


class Migration(msgspec.Struct, frozen=True):
    """A node file, and what the operator still has to do.

    - `files`: The contents of files with secrets, by their paths as the node file names them.
    - `references`: The secrets that are not in these files, and the environment variables that the node file names.
    - `copied`: Key paths of ``config.json`` whose values are in the node file, although a secret may be in them.
    """

    text: str
    files: Mapping[str, Secret]
    references: Sequence[Reference]
    copied: Sequence[str]


def migrated(path: Path, folder: str | None = None) -> Migration:
    """Translate a ``config.json``. Raise `CompositionError` if it is wrong.

    Secrets become references: to files in `folder`, or to environment variables if it is None or a file would not give
    the same text.
    """
    draft = translated(read_config(path))
    _comment_defaults(draft)
    places = {where: _place(one, folder) for where, one in draft.references.items()}
    for where, one in draft.references.items():
        draft.comment(where, _comment(one, places[where]))
    comments = {**draft.comments, "": [*_HEAD, *draft.comments.get("", ())]}
    text = document(_referenced(draft.tables, places, ""), comments)
    by_variable = {one.variable: (one, places[where]) for where, one in sorted(draft.references.items())}
    found = [by_variable[variable] for variable in sorted(by_variable)]
    files = {place["file"]: one.secret for one, place in found if "file" in place}
    return Migration(text, files, [one for one, place in found if "env" in place], draft.copied)


def write(migration: Migration, path: Path) -> None:
    """Write the node file and the files of its secrets, which only the owner may read. Nothing is overwritten.

    Raise `OSError`.
    """
    if path.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    for name, secret in migration.files.items():
        (path.parent / name).parent.mkdir(mode=FOLDER_MODE, exist_ok=True)
        _write_new(path.parent / name, secret.reveal())
    _write_new(path, migration.text)


def _write_new(path: Path, text: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with open(os.open(path, flags, FILE_MODE), "w", encoding="utf-8", newline="") as file:
        file.write(text)


def _place(one: Reference, folder: str | None) -> dict[str, str]:
    """Return the reference to a secret, as a node file has it. What is read from a file has no space around it."""
    text = one.secret.reveal()
    if folder is None or text != text.strip() or len(text.encode()) > LONGEST_IN_FILE:
        return {"env": one.variable}
    return {"file": f"{folder}/{one.variable}"}


def _comment(one: Reference, place: Mapping[str, str]) -> str:
    if "file" in place:
        return f"{one.origin}: in this file"
    return f"{one.origin}: set the environment variable {one.variable} to the old value, or name a file that holds it"


_DEFAULTED = {
    "log.path": "log.path",
    "log.max_file_bytes": "log.max_file_size",
    "log.backups": "log.backup_count",
    "transports[0].bind": "server.port",
    "plugins[1].requests": "server.rate_limit.num_requests",
    "plugins[1].period_seconds": "server.rate_limit.period",
}


def _comment_defaults(draft: Draft) -> None:
    for where, key in _DEFAULTED.items():
        if not draft.given(key):
            draft.comment(where, f"{key} was not set: Infernet's default.")


def _referenced(value: Any, places: Mapping[str, Mapping[str, str]], where: str) -> Any:
    """Return the tables with a reference in place of each secret."""
    if isinstance(value, Secret):
        return dict(places[where])
    if is_table(value):
        prefix = f"{where}." if where else ""
        return {key: _referenced(one, places, f"{prefix}{key}") for key, one in value.items()}
    if is_list(value):
        return [_referenced(one, places, f"{where}[{number}]") for number, one in enumerate(value)]
    return value.replace("${", "$${") if isinstance(value, str) else value  # a node file would look for a variable
