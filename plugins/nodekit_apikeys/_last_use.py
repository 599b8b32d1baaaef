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


class LastUse:
    """Last uses since the last `write`."""

    def __init__(self) -> None:
        self._times: dict[str, float] = {}
        self._failed = False

    def note(self, id: str, now: float) -> None:
        self._times[id] = now

    def take(self) -> Mapping[str, float]:
        """Return what is to be written, and begin anew."""
        taken, self._times = self._times, {}
        return taken

    def write(self, path: Path, times: Mapping[str, float], known: Mapping[str, object]) -> None:
        """Add times to the file, for ids that are `known`. A failure is logged once: it harms nobody."""
        try:
            with locked(path):  # several nodes may have one file
                merged = {id: time for id, time in read_used(path).items() if id in known}
                for id, time in times.items():
                    merged[id] = max(time, merged.get(id, time))
                replace_file(used_path(path), msgspec.json.encode(merged), durable=False)
            self._failed = False
        except KeyFileProblem as error:
            if not self._failed:
                logger.warning("the last use of keys is not kept: %s", error)
            self._failed = True
