"""Reads beside the node, from a file that may be another user's. They write nothing: neither it nor a file beside it.

Without a log beside the file no node runs, and SQLite is told that the file does not change. Otherwise it would create
a log, which a node of another user could not use.
"""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import TypeVar

import anyio.to_thread

from nodekit import StoreFailed
from nodekit_sqlite._thread import Call, EventWait

T = TypeVar("T")


class Beside:
    """Reads on one connection, one at a time. It has the methods of `Readers`."""

    def __init__(self, path: Callable[[], Path]) -> None:
        """`path` returns the path of the file once that is opened: links are resolved then."""
        self._path = path
        self._lock = Lock()
        self._open = False
        self._connection: sqlite3.Connection | None = None
        self._unchanging = False
        """True if the connection relies on a file that nobody changes."""

    def open(self) -> None:
        """Allow reads. The connection is made with the first of them."""
        self._open = True

    async def start(self) -> None:
        """Allow reads, as `open` does."""
        self.open()

    async def call(self, function: Callable[[sqlite3.Connection], T], *, long: bool = False) -> T:
        """Run a function in a thread. Raise `StoreFailed` if SQLite fails."""
        call = Call(function, EventWait(), long=long)  # nobody waits for it

        def run(connection: sqlite3.Connection) -> None:
            call.run(connection)
            if isinstance(call.error, sqlite3.Error):
                raise call.error

        def read() -> None:
            try:
                self.read(run)
            except sqlite3.Error as error:
                call.error = error

        await anyio.to_thread.run_sync(read)
        return call.answer()

    def read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function of the connection. If a node begins to work on the file meanwhile, run it again."""
        with self._lock:
            while True:
                connection = self._connected()
                try:
                    result = function(connection)
                except sqlite3.Error:
                    if not self._has_changed():
                        raise
                else:
                    if not self._has_changed():
                        return result

    async def stop(self) -> None:
        """Close the connection."""
        await anyio.to_thread.run_sync(self.close)

    def close(self) -> None:
        """Close the connection. There are no more reads."""
        with self._lock:
            self._open = False
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _connected(self) -> sqlite3.Connection:
        if not self._open:
            raise StoreFailed("the store is not open")
        if self._connection is not None and self._has_changed():
            self._connection.close()
            self._connection = None
        if self._connection is None:
            self._unchanging = not self._has_log()
            self._connection = connect_for_reading(self._path(), unchanging=self._unchanging)
        return self._connection

    def _has_changed(self) -> bool:
        return self._unchanging and self._has_log()

    def _has_log(self) -> bool:
        path = self._path()
        return os.path.exists(path.with_name(f"{path.name}-wal"))


def connect_for_reading(path: Path, *, unchanging: bool, alone: bool = False) -> sqlite3.Connection:
    """Return a connection that cannot write. Raise `StoreFailed` if this user may not read the file.

    `unchanging` says that nobody writes the file meanwhile: then no log is read and none created. `alone` says that no
    node works on it: then the index of a log, which has to be there, is not written either.
    """
    if not os.access(path, os.R_OK):
        raise StoreFailed(
            f"cannot open {path}: this user may not read it; run the command as the node's user or as root"
        )
    address = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' * unchanging}{'&readonly_shm=1' * alone}"
    return sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False, timeout=10)
