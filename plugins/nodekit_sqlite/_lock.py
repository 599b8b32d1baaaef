"""A lock for one owner at a time. It is a file beside the database, so that read-only tools can open a live file."""

import fcntl
import os
from pathlib import Path

from nodekit import StoreFailed, StoreInUse


class OwnerLock:
    """A lock that a process holds until it releases it or dies in any way."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock. Raise `StoreInUse` if another node holds it, `StoreFailed` if the file cannot be made."""
        try:
            path = _lock_path(self._database)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except (OSError, RuntimeError) as error:  # RuntimeError: symbolic links in a circle
            raise StoreFailed(f"cannot lock {self._database}: {_reason(error)}") from error
        try:
            self._take(descriptor)
        except OSError as error:
            os.close(descriptor)
            raise StoreFailed(f"cannot write {path}, the lock of {self._database}: {_reason(error)}") from error
        except StoreInUse:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _take(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(descriptor, 32).decode(errors="replace").strip()
            who = f" (process {owner})" if owner else ""
            raise StoreInUse(f"{self._database} is held by another node{who}; stop it or name another path") from error
        os.truncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _lock_path(database: Path) -> Path:
    """Return the path beside the real database file, with symbolic links resolved, so that one file has one owner."""
    real = database.resolve()
    return real.with_name(real.name + ".lock")


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
