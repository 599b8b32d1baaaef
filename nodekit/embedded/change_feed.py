"""Publication of changed job ids to any number of listeners. A slow listener learns that it missed some."""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nodekit.concurrency.signal import Signal
from nodekit.model.container import JobId

BUFFERED_CHANGES = 4096


class Broadcast:
    """The list of listeners. Publishing costs nothing while there are none."""

    def __init__(self) -> None:
        self._listeners: set[_Listener] = set()

    def publish(self, id: JobId) -> None:
        for listener in self._listeners:
            listener.put(id)

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[AsyncIterator[JobId | None]]:
        listener = _Listener()
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)


class _Listener:
    def __init__(self) -> None:
        self._ids: deque[JobId | None] = deque()
        self._arrived = Signal()

    def put(self, id: JobId) -> None:
        if len(self._ids) >= BUFFERED_CHANGES:
            self._ids.clear()
            self._ids.append(None)
        self._ids.append(id)
        self._arrived.set()

    def __aiter__(self) -> "_Listener":
        return self

    async def __anext__(self) -> JobId | None:
        while not self._ids:
            await self._arrived.wait()
        return self._ids.popleft()
