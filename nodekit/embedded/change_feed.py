"""Publication of changes to any number of listeners. A slow listener learns that it missed some."""

from collections import deque
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self

from nodekit.concurrency.signal import Signal
from nodekit.interfaces.store import Change
from nodekit.model.container import JobId

BUFFERED_CHANGES = 4096


class ChangeFeed:
    """The listeners to changes in this process, of all jobs or of some: what `JobStore.changes` needs.

    Publishing costs nothing while there are none. Use it in the thread of the event loop.
    """

    def __init__(self) -> None:
        self._listeners: dict[_Listener, None] = {}  # in the order in which they are woken, unlike a set
        self._of: dict[JobId, dict[_Listener, None]] = {}

    def publish(self, change: Change | None) -> None:
        """Report a change to its listeners. None reports to all that some were missed."""
        if change is None:
            for listener in self._listeners | dict.fromkeys(one for some in self._of.values() for one in some):
                listener.put(None)
            return
        for listener in self._listeners:
            listener.put(change)
        if self._of and change.id in self._of:
            for listener in self._of[change.id]:
                listener.put(change)

    def is_awaited(self, id: JobId) -> bool:
        """Return True if somebody listens to the changes of this job."""
        return id in self._of

    def subscribe(
        self, ids: Collection[JobId] | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Change | None]]:
        """Return a subscription to changes of these jobs, or of all, as long as it is entered."""
        return _Listener(self._listeners, self._of, ids)


class _Listener:
    """A subscription. Each client that waits enters one, and entering a generator would cost more."""

    def __init__(
        self,
        of_all: "dict[_Listener, None]",
        of: "dict[JobId, dict[_Listener, None]]",
        ids: Collection[JobId] | None,
    ) -> None:
        self._of_all, self._of, self._ids = of_all, of, None if ids is None else tuple(ids)
        self._changes: deque[Change | None] = deque()
        self._arrived = Signal()
        self._ended = self._finished_only = False

    async def __aenter__(self) -> Self:
        if self._ids is None:
            self._of_all[self] = None
        for id in self._ids or ():
            self._of.setdefault(id, {})[self] = None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._of_all.pop(self, None)
        for id in self._ids or ():
            if listeners := self._of.get(id):
                listeners.pop(self, None)
                if not listeners:
                    del self._of[id]

    def put(self, change: Change | None) -> None:
        if self._finished_only and change is not None and not change.finished:
            return
        if len(self._changes) >= BUFFERED_CHANGES:
            self._changes.clear()
            self._changes.append(None)
        self._changes.append(change)
        self._arrived.set()

    def __aiter__(self) -> "_Listener":
        return self

    async def __anext__(self) -> Change | None:
        while not self._changes:
            if self._ended:
                raise StopAsyncIteration
            await self._arrived.wait()
        return self._changes.popleft()

    def finished_only(self) -> None:
        """Leave out all changes but the ends of jobs from now on. Thousands may wait, and need not wake for a step."""
        self._finished_only = True

    def end(self) -> None:
        """End the iteration, after the changes that have arrived."""
        self._ended = True
        self._arrived.set()
