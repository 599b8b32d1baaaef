"""The free space of the file system that the file is on."""

import logging
import math
import os
import time
from contextlib import suppress
from pathlib import Path

from nodekit import DiskSpace, StoreFailed

logger = logging.getLogger("nodekit.store")

LOOK_SECONDS = 0.1
"""Pause between two looks at the file system. A look takes a few microseconds."""


class FreeSpace:
    """Says when less than `least` bytes are free, until an eighth more is free, so that it does not flicker."""

    def __init__(self, path: Path, least: int) -> None:
        self._path, self._least = path, least
        self._look_at = -math.inf
        self._text = ""

    def full(self) -> str:
        """Return how little is free and what to do. Empty: there is enough."""
        if self._least and (now := time.monotonic()) >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            text = self._look()
            if text and not self._text:
                logger.error("no new jobs are taken: %s", text)
            elif self._text and not text:
                logger.info("new jobs are taken again: enough of the disk is free")
            self._text = text
        return self._text

    def _look(self) -> str:
        try:
            found = os.statvfs(self._path.parent)
        except OSError as error:  # a write will say more
            logger.debug("the free space of %s is not known: %s", self._path.parent, error)
            return ""
        free = found.f_bavail * found.f_frsize
        if free >= self._least + (self._least // 8 if self._text else 0):
            return ""
        cure = "delete something, or keep fewer finished jobs"
        return f"the disk of the store has {free} bytes free, and min_free_bytes is {self._least}; {cure}"


FILES = ("", "-wal", "-shm")
"""Endings of the names of the files that SQLite has for one database."""


def disk_space(path: Path) -> DiskSpace:
    """Return the size of the database with all its files, and the free space beside them. Raise `StoreFailed`."""
    used = 0
    try:
        for ending in FILES:
            with suppress(FileNotFoundError):  # SQLite makes and deletes those beside the database
                used += os.stat(f"{path}{ending}").st_size
        found = os.statvfs(path.parent)
    except OSError as error:
        raise StoreFailed(f"the size of {path} is not known: {error.strerror}") from error
    return DiskSpace(used, found.f_bavail * found.f_frsize)
