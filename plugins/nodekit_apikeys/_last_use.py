"""The last use of each key, in a file of the node's own beside that of the keys, which is the operator's."""

import logging
from collections.abc import Mapping
from pathlib import Path

import msgspec

from nodekit_apikeys._file import KeyFileProblem, locked, read_private, replace_file

logger = logging.getLogger("nodekit.apikeys")

_decoder: msgspec.json.Decoder[dict[str, float]] = msgspec.json.Decoder(dict[str, float])


def used_path(path: Path) -> Path:
    """Return the path of the file for the keys in `path`."""
    return path.with_name(f"{path.name}.used")


def read_used(path: Path) -> dict[str, float]:
    """Return the time of the last use by id, in Unix seconds. Empty if there is none, or it cannot be read."""
    try:
        found = read_private(used_path(path))
        return {} if found is None else _decoder.decode(found[0])
    except (KeyFileProblem, msgspec.DecodeError, UnicodeDecodeError):
        return {}


class UsedFile:
    """The file of last uses beside that of the keys."""

    def __init__(self, path: Path) -> None:
        """`path` is that of the keys."""
        self._path = path
        self._failed = False

    def write(self, times: Mapping[str, float], known: Mapping[str, object]) -> None:
        """Add times to the file, for ids that are `known`. A failure is logged once: it harms nobody."""
        try:
            with locked(self._path):  # several nodes may have one file
                merged = {id: time for id, time in read_used(self._path).items() if id in known}
                for id, time in times.items():
                    merged[id] = max(time, merged.get(id, time))
                replace_file(used_path(self._path), msgspec.json.encode(merged), durable=False)
            self._failed = False
        except KeyFileProblem as error:
            if not self._failed:
                logger.warning("the last use of keys is not kept: %s", error)
            self._failed = True
