"""A thread with one connection that runs calls in groups. Calls that wait together share one commit and one wake-up."""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar, cast

import anyio
import anyio.to_thread
from anyio.lowlevel import current_token

from nodekit import StoreFailed

T = TypeVar("T")


class _Call:
    """A function of the connection, and its result or error."""

    __slots__ = ("done", "error", "function", "result")

    def __init__(self, function: Callable[[sqlite3.Connection], Any]) -> None:
        self.function = function
        self.done = anyio.Event()
        self.result: Any = None
        self.error: Exception | None = None

    def run(self, connection: sqlite3.Connection) -> None:
        try:
            self.result, self.error = self.function(connection), None
        except Exception as error:
            self.error = error


class ConnectionThread:
    """A thread that runs functions on a connection, one at a time. A writing one groups them into transactions."""

    def __init__(self, connect: Callable[[], sqlite3.Connection], *, group: int, writes: bool) -> None:
        self._connect = connect
        self._group = group
        self._run = _write if writes else _read
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread: Thread | None = None

    async def start(self) -> None:
        """Start the thread. Call this in the event loop that will make the calls.

        Connecting may wait for the disk, so it is done in a thread.
        """
        loop = current_token().native_token
        # asyncio's loop and trio's token have the same method under different names
        self._post = cast(
            "Callable[..., object]", getattr(loop, "call_soon_threadsafe", None) or getattr(loop, "run_sync_soon", None)
        )
        try:
            connection = await anyio.to_thread.run_sync(self._connect)
        except sqlite3.Error as error:
            raise StoreFailed(f"sqlite: {error}") from error
        self._thread = Thread(target=self._work, args=[connection], name="nodekit-sqlite", daemon=True)
        self._thread.start()

    async def call(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function in the thread. For a writing thread, its changes are committed once this returns.

        Raise `StoreFailed` if SQLite fails or the thread does not run.
        """
        if self._thread is None:
            raise StoreFailed("the store is not open")
        self._calls.put(call := _Call(function))
        await call.done.wait()
        if isinstance(call.error, sqlite3.Error):
            raise StoreFailed(f"sqlite: {call.error}") from call.error
        if call.error is not None:
            raise call.error
        return cast("T", call.result)

    async def stop(self) -> None:
        """Finish the calls made so far and end the thread."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._calls.put(None)
            await anyio.to_thread.run_sync(thread.join)

    def _work(self, connection: sqlite3.Connection) -> None:
        try:
            while calls := self._next():
                self._run(connection, calls)
                with suppress(RuntimeError):  # the event loop is gone, and so are the callers
                    self._post(_deliver, calls)
        finally:
            connection.close()

    def _next(self) -> Sequence[_Call]:
        calls: list[_Call] = []
        call = self._calls.get()
        with suppress(Empty):
            while call is not None:
                calls.append(call)
                if len(calls) == self._group:
                    return calls
                call = self._calls.get_nowait()
            if calls:
                self._calls.put(None)  # stop after these
        return calls


def _read(connection: sqlite3.Connection, calls: Sequence[_Call]) -> None:
    for call in calls:
        call.run(connection)


def _write(connection: sqlite3.Connection, calls: Sequence[_Call]) -> None:
    """Run all calls in one transaction. If one of them fails, run each in its own, so that it harms no other."""
    if _commit(connection, calls) is not None and len(calls) > 1:
        for call in calls:
            _commit(connection, [call])


def _commit(connection: sqlite3.Connection, calls: Sequence[_Call]) -> Exception | None:
    try:
        connection.execute("BEGIN IMMEDIATE")
        for call in calls:
            call.run(connection)
            if call.error is not None:
                raise call.error
        connection.execute("COMMIT")
        return None
    except Exception as error:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        for call in calls:
            call.error = error
        return error


def _deliver(calls: Sequence[_Call]) -> None:
    for call in calls:
        call.done.set()
