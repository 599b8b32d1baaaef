"""The text of a node file, and files that only their owner may read."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nodekit import Secret
from nodekit_infernet._draft import Draft
from nodekit_infernet._shapes import is_list, is_table
from nodekit_infernet._toml import document

FILE_MODE = 0o600
"""Mode of what is written: the operator's own."""
LONGEST_IN_FILE = 1 << 16
"""Maximum number of bytes of a secret that a node reads from a file."""

_HEAD = (
    "Written by `nodekit migrate` from the config.json of an Infernet node. Comments say what has changed, and why.",
    "Relative paths are relative to this file: keep it where config.json is. `nodekit check` says whether it is right.",
)


_DEFAULTED = {
    "log.path": "log.path",
    "log.max_file_bytes": "log.max_file_size",
    "log.backups": "log.backup_count",
    "transports[0].bind": "server.port",
    "plugins[1].requests": "server.rate_limit.num_requests",
    "plugins[1].period_seconds": "server.rate_limit.period",
}


def text_of(tables: Mapping[str, Any], draft: Draft, places: Mapping[str, Mapping[str, str]]) -> str:
    """Return tables of a draft as a node file, with a reference from `places` for each secret, by its key path."""
    comments = {**draft.comments, "": [*_HEAD, *draft.comments.get("", ())]}
    for where, key in _DEFAULTED.items():
        if not draft.given(key):
            comments[where] = [*comments.get(where, ()), f"{key} was not set: Infernet's default."]
    return document(_referenced(tables, places, ""), comments)


def _referenced(value: Any, places: Mapping[str, Mapping[str, str]], where: str) -> Any:
    """Return the tables with a reference in place of each secret."""
    if isinstance(value, Secret):
        return dict(places[where])
    if is_table(value):
        prefix = f"{where}." if where else ""
        return {key: _referenced(one, places, f"{prefix}{key}") for key, one in value.items()}
    if is_list(value):
        return [_referenced(one, places, f"{where}[{number}]") for number, one in enumerate(value)]
    # a node file would look for a variable
    return value.replace("${", "$${") if isinstance(value, str) else value


def write_new(path: Path, text: str) -> None:
    """Write a new file. Raise `OSError`; one that is there is not overwritten, and half a file does not stay."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
    try:
        with open(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
