"""The threads that read, and the queue before them, in which groups of clients take turns."""

import sqlite3
from collections import Counter
from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock, Thread
from time import perf_counter
from typing import Any, TypeVar

import anyio.to_thread

from nodekit import GroupId, StoreFailed, caller_group
from nodekit_sqlite._thread import Call, Connect, Deliveries, EventWait, Wait, connected, waits

T = TypeVar("T")

_TOGETHER_SECONDS = 0.0005
"""Time for which a thread goes on with short reads before it delivers their results: waking the event loop costs more
than such a read."""
_STEPS = 50_000
"""Number of steps of SQLite's virtual machine, a few milliseconds, after which a read looks if it was abandoned."""


class Turns:
    """Calls that wait for a thread. The node's own are first; then the groups of clients take turns.

    A group never has all threads: the last one is always for others.
    """

    def __init__(self, threads: int) -> None:
        self._most = max(1, threads - 1)
        self._lock = Lock()
        self._wake: SimpleQueue[None] = SimpleQueue()
        """An item for each call that may be taken, or more of them. A `Condition` would cost as much as a read."""
        self._waiting: dict[GroupId | None, dict[Call[Any], None]] = {}
        """Calls by group, in the order of the groups' turns."""
        self._running: Counter[GroupId | None] = Counter()
        self._closed = False

    def put(self, call: Call[Any]) -> None:
        with self._lock:
            self._waiting.setdefault(call.group, {})[call] = None
        self._wake.put(None)

    def abandon(self, call: Call[Any]) -> None:
        """Drop a call that waits; one that runs is interrupted by its thread."""
        call.abandoned = True
        with self._lock:
            if (calls := self._waiting.get(call.group)) is not None and call in calls:
                del calls[call]
                if not calls:
                    del self._waiting[call.group]

    def take(self) -> Call[Any] | None:
        """Wait for a call whose turn it is; `done` ends it. Return None once it is closed and empty."""
        while True:
            self._wake.get()
            with self._lock:
                if (call := self.first()) is not None:
                    return call
                if self._closed and not self._waiting:
                    self._wake.put(None)  # for the next thread
                    return None

    def take_now(self) -> Call[Any] | None:
        """Return a call whose turn it is, if there is one."""
        with self._lock:
            return self.first() if self._waiting else None

    def first(self) -> Call[Any] | None:
        """Take out the call whose turn it is, if there is one. Only methods that hold the lock call this."""
        first = [None] if None in self._waiting else []
        for group in (*first, *self._waiting):
            if self._running[group] < self._most:
                calls = self._waiting.pop(group)
                call = next(iter(calls))
                del calls[call]
                if calls:
                    self._waiting[group] = calls  # at the end: all others come first
                self._running[group] += 1
                return call
        return None

    def done(self, group: GroupId | None) -> None:
        with self._lock:
            self._running[group] -= 1
            if not self._running[group]:
                del self._running[group]
            waits = group in self._waiting
        if waits or self._closed:
            self._wake.put(None)

    def close(self) -> None:
        """Let the threads end after the calls that wait."""
        self._closed = True
        self._wake.put(None)


class Readers:
    """Threads that read, each on its own connection. Reads of callers that have gone are dropped or interrupted."""

    def __init__(self, connect: Connect, *, threads: int) -> None:
        self._connect, self._number = connect, threads
        self._turns = Turns(threads)
        self._threads: list[Thread] = []
        self._wait: Callable[[], Wait] = EventWait

    async def start(self) -> None:
        """Start the threads. Call this in the event loop that will make the calls."""
        deliveries, self._wait = Deliveries(), waits()
        for _ in range(self._number):
            connection = await connected(self._connect)
            args = connection, deliveries
            self._threads.append(Thread(target=self._work, args=args, name="nodekit-sqlite", daemon=True))
            self._threads[-1].start()

    async def call(self, function: Callable[[sqlite3.Connection], T], *, long: bool = False) -> T:
        """Run a function in one of the threads, in the turn of the group whose request this is.

        `long` is said of a read that may take more than a fraction of a millisecond: no results wait for it. Raise
        `StoreFailed` if SQLite fails or the threads do not run.
        """
        if not self._threads:
            raise StoreFailed("the store is not open")
        call = Call(function, self._wait(), caller_group(), long=long)
        self._turns.put(call)
        try:
            await call.done
        except BaseException:
            self._turns.abandon(call)
            raise
        return call.answer()

    async def stop(self) -> None:
        """Finish the calls made so far and end the threads."""
        threads, self._threads = self._threads, []
        self._turns.close()
        for thread in threads:
            await anyio.to_thread.run_sync(thread.join)

    def _work(self, connection: sqlite3.Connection, deliveries: Deliveries) -> None:
        current: Call[Any] | None = None
        connection.set_progress_handler(lambda: current is not None and current.abandoned, _STEPS)
        finished: list[Call[Any]] = []
        try:
            while (current := self._turns.take()) is not None:
                deliver_at = perf_counter() + _TOGETHER_SECONDS
                while current is not None:
                    if current.long:
                        deliveries.put(finished)
                        finished.clear()
                    current.run(connection)
                    finished.append(current)
                    self._turns.done(current.group)
                    current = self._turns.take_now() if perf_counter() < deliver_at else None
                deliveries.put(finished)
                finished.clear()  # results may be large, and the wait for the next call long
        finally:
            connection.close()
