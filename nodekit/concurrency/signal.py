"""Wakes whoever waits, again and again; costs nothing while nobody does."""

import anyio


class Signal:
    """Like an event that clears itself: `wait` returns at the next `set` after it was called."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    async def wait(self) -> None:
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()

    def set(self) -> None:
        if self._event is not None:
            self._event.set()
            self._event = None
