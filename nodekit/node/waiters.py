"""Waiting for changes of jobs, while the node runs. The store wakes the waiters; nobody polls."""

import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TypeAlias

import anyio

from nodekit.errors import NodekitError
from nodekit.interfaces.component_calls import is_fault
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

    @asynccontextmanager
    async def on(self, ids: Collection[JobId]) -> AsyncIterator["Waiter"]:
        """Enter a waiter for changes of these jobs from now on."""
        waiter = Waiter(self, ids)
        self.present.add(waiter)
        try:
            await waiter.listen()
            yield waiter
        finally:
            self.present.discard(waiter)
            await waiter.leave()


class Waiter:
    """A subscription to changes of some jobs. It outlives faults of the store."""

    def __init__(self, waiters: Waiters, ids: Collection[JobId]) -> None:
        self._waiters = waiters
        self._ids = ids
        self._changes: AsyncIterator[Change | None] | None = None
        self._stack = AsyncExitStack()
        self._wait: anyio.CancelScope | None = None

    async def listen(self) -> bool:
        """Subscribe. Return False if the store failed; `changed` tries again."""
        try:
            self._changes = await self._stack.enter_async_context(self._waiters.subscribe(self._ids))
        except BaseException as error:
            await self._failed(error)
        return self._changes is not None

    async def changed(self) -> Change | None:
        """Wait for a change. None means that any of the jobs may have changed.

        Raise `NodekitError` if the node does not run, or stops meanwhile.
        """
        self._waiters.check()
        with anyio.CancelScope() as self._wait:
            return await self._next()
        self._waiters.check()
        return None

    def wake(self) -> None:
        """Cancel the present wait."""
        if self._wait is not None:
            self._wait.cancel()

    async def _next(self) -> Change | None:
        if self._changes is None:
            if not await self.listen():
                await anyio.sleep(PAUSE_SECONDS)
            return None
        try:
            return await anext(self._changes)
        except BaseException as error:
            await self._failed(error)
            return None

    async def _failed(self, error: BaseException) -> None:
        if not is_fault(error):
            raise error
        logger.error("the store fails to report changes; trying again in %g s", PAUSE_SECONDS, exc_info=error)
        await self.leave()

    async def leave(self) -> None:
        """End the subscription."""
        self._changes = None
        await self._stack.aclose()
