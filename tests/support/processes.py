"""Processes of this machine that know a folder of a test."""

import os
from contextlib import suppress
from pathlib import Path


def processes_of(folder: Path) -> list[int]:
    """Return the processes that run in a folder, or name it on their command line or in their environment."""
    name, found = os.fsencode(folder), list[int]()
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            words = (place / "cmdline").read_bytes() + (place / "environ").read_bytes()
            if name in words or str(folder) in os.readlink(place / "cwd"):
                found.append(int(place.name))
    return found
