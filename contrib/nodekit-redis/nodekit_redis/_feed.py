"""Changes of jobs for those who listen in this process. A slow listener learns that it missed some."""

from collections import deque
from collections.abc import Awaitable, Callable, Collection
from types import TracebackType
from typing import Self

from nodekit import Change, JobId
from nodekit_redis._line import Notice

BUFFERED_CHANGES = 4096


class Feed:
    """The listeners, to all jobs or to some."""

    def __init__(self) -> None:
        self._of_all: dict[Listener, None] = {}
        self._of: dict[JobId, dict[Listener, None]] = {}

    def publish(self, change: Change | None) -> None:
        """Report a change to its listeners. None reports to all that some were missed."""
        if change is None:
            for listener in self._of_all | dict.fromkeys(one for some in self._of.values() for one in some):
                listener.put(None)
            return
        for listener in (*self._of_all, *self._of.get(change.id, ())):
            listener.put(change)

    def add(self, listener: "Listener", ids: Collection[JobId] | None) -> None:
        if ids is None:
            self._of_all[listener] = None
        for id in ids or ():
            self._of.setdefault(id, {})[listener] = None

    def remove(self, listener: "Listener", ids: Collection[JobId] | None) -> None:
        self._of_all.pop(listener, None)
        for id in ids or ():
            if listeners := self._of.get(id):
                listeners.pop(listener, None)
                if not listeners:
                    del self._of[id]


class Listener:
    """A subscription to changes of some jobs, or of all, as long as it is entered.

    `caught_up` returns when what was published before has arrived: it does not count.
    """

    def __init__(self, feed: Feed, ids: Collection[JobId] | None, caught_up: Callable[[], Awaitable[None]]) -> None:
        self._feed, self._ids = feed, None if ids is None else tuple(ids)
        self._caught_up = caught_up
        self._changes: deque[Change | None] = deque()
        self._arrived = Notice()
        self._ended = self._ends_only = False

    async def __aenter__(self) -> Self:
        await self._caught_up()
        self._feed.add(self, self._ids)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._feed.remove(self, self._ids)

    def put(self, change: Change | None) -> None:
        if self._ends_only and change is not None and not change.finished:
            return
        if len(self._changes) >= BUFFERED_CHANGES:
            self._changes.clear()
            self._changes.append(None)
        self._changes.append(change)
        self._arrived.set()

    def __aiter__(self) -> "Listener":
        return self

    async def __anext__(self) -> Change | None:
        while not self._changes:
            if self._ended:
                raise StopAsyncIteration
            await self._arrived.next().wait()
        return self._changes.popleft()

    def finished_only(self) -> None:
        """Leave out all changes but the ends of jobs from now on."""
        self._ends_only = True

    def end(self) -> None:
        """End the iteration, after the changes that have arrived."""
        self._ended = True
        self._arrived.set()
