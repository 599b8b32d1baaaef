"""Waiting for changes of jobs, while the node runs. The store wakes the waiters; nobody polls."""

import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self, TypeAlias

import anyio

from nodekit.errors import NodekitError
from nodekit.interfaces.store import Change
from nodekit.model.container import JobId

logger = logging.getLogger("nodekit.node")

PAUSE_SECONDS = 1.0

Subscribe: TypeAlias = Callable[[Collection[JobId]], AbstractAsyncContextManager[AsyncIterator[Change | None]]]


class Waiters:
    """All waits for changes. They end with the node."""

    def __init__(self, subscribe: Subscribe) -> None:
        self.subscribe = subscribe
        self.open = False
        """True while the node runs, so that waiting makes sense."""
        self.present: set[Waiter] = set()

    def end(self) -> None:
        """End all waits; no more changes will come."""
        self.open = False
        for waiter in self.present:
            waiter.wake()

    def check(self) -> None:
        """Raise `NodekitError` unless the node runs."""
        if not self.open:
            raise NodekitError("the node is not running; nothing will change")

    def on(self, ids: Collection[JobId]) -> "Waiter":
        """Return a waiter for changes of these jobs, from the moment that it is entered."""
        return Waiter(self, ids)


class Waiter:
    """A subscription to changes of some jobs. It outlives faults of the store."""

    def __init__(self, waiters: Waiters, ids: Collection[JobId]) -> None:
        self._waiters = waiters
        self._ids = ids
        self._subscription: AbstractAsyncContextManager[AsyncIterator[Change | None]] | None = None
        self._changes: AsyncIterator[Change | None] | None = None
        self._wait: anyio.CancelScope | None = None

    async def __aenter__(self) -> Self:
        self._waiters.present.add(self)
        try:
            await self._listen()
        except BaseException:
            self._waiters.present.discard(self)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiters.present.discard(self)
        await self._leave()

    async def changed(self) -> Change | None:
        """Wait for a change. None means that any of the jobs may have changed.

        Raise `NodekitError` if the node does not run, or stops meanwhile.
        """
        with self.waiting():
            return await self.next()
        self._waiters.check()
        return None

    def waiting(self) -> anyio.CancelScope:
        """Return a scope to call `next` in. The end of the node cancels it; `Waiters.check` raises afterwards.

        Raise `NodekitError` if the node does not run.
        """
        self._waiters.check()
        self._wait = anyio.CancelScope()
        return self._wait

    async def next(self) -> Change | None:
        """Wait for a change, inside `waiting`."""
        if self._changes is None:
            if not await self._listen():
                await anyio.sleep(PAUSE_SECONDS)
            return None
        try:
            return await anext(self._changes)
        except Exception as error:  # a cancellation is the caller's, by whatever means
            await self._failed(error)
            return None

    def wake(self) -> None:
        """Cancel the present wait."""
        if self._wait is not None:
            self._wait.cancel()

    async def _listen(self) -> bool:
        """Subscribe. Return False if the store failed; `next` tries again."""
        try:
            subscription = self._waiters.subscribe(self._ids)
            self._changes = await subscription.__aenter__()
            self._subscription = subscription
        except Exception as error:
            await self._failed(error)
        return self._changes is not None

    async def _failed(self, error: Exception) -> None:
        logger.error("the store fails to report changes; trying again in %g s", PAUSE_SECONDS, exc_info=error)
        await self._leave()

    async def _leave(self) -> None:
        """End the subscription."""
        subscription, self._subscription, self._changes = self._subscription, None, None
        if subscription is not None:
            await subscription.__aexit__(None, None, None)
