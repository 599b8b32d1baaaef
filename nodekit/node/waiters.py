"""Waiting for changes of jobs. The store wakes the waiters; the node listens to it only while there are any."""

import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
from anyio.abc import TaskStatus

from nodekit.concurrency.signal import Signal
from nodekit.interfaces.store import Change
from nodekit.model.container import JobId

logger = logging.getLogger("nodekit.node")

PAUSE_SECONDS = 1.0


class Waiter:
    """Collector of changes. None among them means that any job may have changed."""

    def __init__(self) -> None:
        self._changed: set[Change | None] = set()
        self._woken = Signal()

    def wake(self, change: Change | None) -> None:
        self._changed.add(change)
        self._woken.set()

    async def changed(self) -> set[Change | None]:
        """Wait for a change, and return all changes since the last call."""
        if not self._changed:
            await self._woken.wait()
        changed, self._changed = self._changed, set()
        return changed


class Waiters:
    """The waiters by job."""

    def __init__(self, changes: Callable[[], AbstractAsyncContextManager[AsyncIterator[Change | None]]]) -> None:
        self._changes = changes
        self._waiters: dict[JobId, set[Waiter]] = {}
        self._wanted = anyio.Event()
        self._listening = anyio.Event()
        self._missed = False
        self._open = False

    @property
    def open(self) -> bool:
        """True while changes are relayed, so that waiting makes sense."""
        return self._open

    async def run(self, *, task_status: "TaskStatus[None]") -> None:
        """Relay the store's changes to the waiters. After a fault of the store, all of them look again."""
        self._open = True
        task_status.started()
        try:
            while True:
                await self._wanted.wait()
                try:
                    await self._relay()
                except Exception:
                    logger.exception("the store fails to report changes; trying again in %g s", PAUSE_SECONDS)
                    self._missed = True
                    await anyio.sleep(PAUSE_SECONDS)
        finally:
            self.end()

    def end(self) -> None:
        """Wake all waiters; no more changes will come."""
        self._open = False
        self._listening.set()
        self._wake(None)

    async def _relay(self) -> None:
        async with self._changes() as changes:
            self._listening.set()
            if self._missed:
                self._wake(None)
                self._missed = False
            async for change in changes:
                self._wake(change)
                if not self._waiters:
                    self._wanted, self._listening = anyio.Event(), anyio.Event()
                    return

    @asynccontextmanager
    async def on(self, ids: Collection[JobId]) -> AsyncIterator[Waiter]:
        """Enter a waiter that misses no change from then on."""
        waiter = Waiter()
        for id in ids:
            self._waiters.setdefault(id, set()).add(waiter)
        try:
            self._wanted.set()
            if self._open:
                await self._listening.wait()
            yield waiter
        finally:
            for id in ids:
                self._waiters[id].discard(waiter)
                if not self._waiters[id]:
                    del self._waiters[id]

    def _wake(self, change: Change | None) -> None:
        if change is not None:
            woken = self._waiters.get(change.id, ())
        else:
            woken = {waiter for waiters in self._waiters.values() for waiter in waiters}
        for waiter in woken:
            waiter.wake(change)
