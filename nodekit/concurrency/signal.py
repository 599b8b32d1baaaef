"""A signal that wakes its waiters repeatedly. It costs nothing while there are none."""

from nodekit.concurrency.event import Event


class Signal:
    """An event that clears itself: `wait` returns at the next `set` after the call."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: Event | None = None

    async def wait(self) -> None:
        if self._event is None:
            self._event = Event()
        await self._event.wait()

    def set(self) -> None:
        if self._event is not None:
            self._event.set()
            self._event = None
