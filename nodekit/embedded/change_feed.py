"""Publication of changes to any number of listeners. A slow listener learns that it missed some."""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nodekit.concurrency.signal import Signal
from nodekit.interfaces.store import Change

BUFFERED_CHANGES = 4096


class Broadcast:
    """The list of listeners. Publishing costs nothing while there are none."""

    def __init__(self) -> None:
        self._listeners: set[_Listener] = set()

    def publish(self, change: Change) -> None:
        for listener in self._listeners:
            listener.put(change)

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[AsyncIterator[Change | None]]:
        listener = _Listener()
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)


class _Listener:
    def __init__(self) -> None:
        self._changes: deque[Change | None] = deque()
        self._arrived = Signal()

    def put(self, change: Change) -> None:
        if len(self._changes) >= BUFFERED_CHANGES:
            self._changes.clear()
            self._changes.append(None)
        self._changes.append(change)
        self._arrived.set()

    def __aiter__(self) -> "_Listener":
        return self

    async def __anext__(self) -> Change | None:
        while not self._changes:
            await self._arrived.wait()
        return self._changes.popleft()
