"""Waiting for changes of jobs, while the node runs. The store wakes the waiters; nobody polls."""

import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from types import TracebackType
from typing import Self, TypeAlias

import anyio

from nodekit.errors import NodekitError, TooManyRequests
from nodekit.interfaces.component_calls import said, unexpected
from nodekit.interfaces.store import Change
from nodekit.model.container import GroupId, JobId
from nodekit.model.counting import counted
from nodekit.model.identity import caller_group

logger = logging.getLogger("nodekit.node")

PAUSE_SECONDS = 1.0

_NO_SCOPE = nullcontext()
"""For changes that can be ended (`end`). A scope for each wait costs as much as a tenth of a job."""

Subscribe: TypeAlias = Callable[[Collection[JobId]], AbstractAsyncContextManager[AsyncIterator[Change | None]]]


class Waiters:
    """All waits for changes. They end with the node."""

    def __init__(self, subscribe: Subscribe, most: int) -> None:
        """`most` is the number of jobs that the requests of a group may wait for at the same time."""
        self.subscribe = subscribe
        self._most = most
        self._jobs_of: dict[GroupId, int] = {}
        self.open = False
        """True while the node runs, so that waiting makes sense."""
        self.present: dict[Waiter, None] = {}
        """The waiters, in the order in which they came."""

    def end(self) -> None:
        """End all waits; no more changes will come."""
        self.open = False
        for waiter in self.present:
            waiter.wake()

    def check(self) -> None:
        """Raise `NodekitError` unless the node runs."""
        if not self.open:
            raise NodekitError("the node is not running; nothing will change")

    def on(self, ids: Collection[JobId], *, finished_only: bool = False) -> "Waiter":
        """Return a waiter for changes of these jobs, or only for their ends, from the moment that it is entered."""
        return Waiter(self, ids, caller_group(), finished_only=finished_only)

    def enter(self, waiter: "Waiter", group: GroupId | None, jobs: int) -> None:
        """Count a waiter. Raise `TooManyRequests` if its group waits for too many jobs."""
        if group is not None:
            waited = self._jobs_of.get(group, 0)
            if waited + jobs > self._most:
                text = (
                    f"your requests wait for {counted(waited, 'job')}; they may wait for {self._most} at the same time"
                )
                raise TooManyRequests(text, retry_after_seconds=1)
            self._jobs_of[group] = waited + jobs
        self.present[waiter] = None

    def leave(self, waiter: "Waiter", group: GroupId | None, jobs: int) -> None:
        self.present.pop(waiter, None)
        if group is not None:
            self._jobs_of[group] -= jobs
            if not self._jobs_of[group]:
                del self._jobs_of[group]


class Waiter:
    """A subscription to changes of some jobs. It outlives faults of the store.

    The subscription is entered and left outside the scopes in which its changes are awaited, since a store may have
    scopes of its own in it.
    """

    def __init__(self, waiters: Waiters, ids: Collection[JobId], group: GroupId | None, *, finished_only: bool) -> None:
        self._waiters = waiters
        self._ids = ids
        self._group, self._finished_only = group, finished_only
        self._subscription: AbstractAsyncContextManager[AsyncIterator[Change | None]] | None = None
        self._changes: AsyncIterator[Change | None] | None = None
        self._end: Callable[[], object] | None = None
        """Ends the present wait."""

    async def __aenter__(self) -> Self:
        self._waiters.enter(self, self._group, len(self._ids))
        try:
            await self._listen()
        except BaseException:
            self._waiters.leave(self, self._group, len(self._ids))
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiters.leave(self, self._group, len(self._ids))
        await self._leave()

    @property
    def listens(self) -> bool:
        """True while the store reports changes; otherwise call `listen_again`."""
        return self._changes is not None

    async def changed(self) -> Change | None:
        """Wait for a change. None means that any of the jobs may have changed.

        Raise `NodekitError` if the node does not run, or stops meanwhile.
        """
        if not self.listens:
            await self.listen_again()
            return None
        change: Change | None = None
        with self.waiting():
            change = await self.next()
        if change is None:
            self._waiters.check()
        return change

    def waiting(self) -> AbstractContextManager[object]:
        """Return a context to call `next` in. The end of the node ends it; `Waiters.check` raises afterwards.

        Raise `NodekitError` if the node does not run.
        """
        self._waiters.check()
        self._end = getattr(self._changes, "end", None)
        if self._end is not None:
            return _NO_SCOPE
        scope = anyio.CancelScope()
        self._end = scope.cancel
        return scope

    async def next(self) -> Change | None:
        """Wait for a change, inside `waiting`, while it `listens`."""
        assert self._changes is not None
        try:
            return await anext(self._changes)
        except Exception as error:  # a cancellation is the caller's, by whatever means
            if self._waiters.open:
                self._failed(error)
            self._changes = None
            return None

    async def listen_again(self) -> None:
        """Subscribe again, after a pause. Raise `NodekitError` if the node does not run, or stops meanwhile."""
        await self._leave()
        with self.waiting():
            await anyio.sleep(PAUSE_SECONDS)
        self._waiters.check()
        await self._listen()

    def wake(self) -> None:
        """End the present wait."""
        if self._end is not None:
            self._end()

    async def _listen(self) -> None:
        try:
            subscription = self._waiters.subscribe(self._ids)
            self._changes = await subscription.__aenter__()
            self._subscription = subscription
            if self._finished_only and (leave_out := getattr(self._changes, "finished_only", None)) is not None:
                leave_out()
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        text = "the store fails to report changes: %s; trying again in %g s"
        logger.error(text, said(error), PAUSE_SECONDS, exc_info=unexpected(error))

    async def _leave(self) -> None:
        """End the subscription."""
        subscription, self._subscription, self._changes = self._subscription, None, None
        if subscription is not None:
            try:
                await subscription.__aexit__(None, None, None)
            except Exception:
                logger.exception("the store fails to end a subscription to changes")
