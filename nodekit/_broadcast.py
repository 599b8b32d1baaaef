"""Tells any number of listeners which jobs changed; a slow one learns that it missed some."""

from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import anyio

from nodekit.container import JobId

BUFFERED_CHANGES = 4096


class Broadcast:
    """Costs nothing while nobody listens."""

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
            yield listener.changes()
        finally:
            self._listeners.discard(listener)


class _Listener:
    def __init__(self) -> None:
        self._ids: deque[JobId | None] = deque()
        self._arrived = anyio.Event()

    def put(self, id: JobId) -> None:
        if len(self._ids) >= BUFFERED_CHANGES:
            self._ids.clear()
            self._ids.append(None)
        self._ids.append(id)
        self._arrived.set()

    async def changes(self) -> AsyncIterator[JobId | None]:
        while True:
            await self._arrived.wait()
            self._arrived = anyio.Event()
            for id in self._drain():
                yield id

    def _drain(self) -> Iterator[JobId | None]:
        while self._ids:
            yield self._ids.popleft()
