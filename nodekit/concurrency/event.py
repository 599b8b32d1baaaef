"""An event that costs a third of anyio's. Several are made for each job."""

from typing import TYPE_CHECKING

import anyio

from nodekit.concurrency.loop import running_loop

if TYPE_CHECKING:
    import asyncio


class Event:
    """A flag that is set once and wakes those who wait for it. It is made outside of an event loop, too."""

    __slots__ = ("_is_set", "_waiting")

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: list[asyncio.Future[None] | anyio.Event] | None = None

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        """Wake all who wait. Call it in the thread of their event loop."""
        self._is_set = True
        waiting, self._waiting = self._waiting, None
        for one in waiting or ():
            if isinstance(one, anyio.Event):
                one.set()
            elif not one.done():
                one.set_result(None)

    async def wait(self) -> None:
        """Return once it is set; at once if it is."""
        if self._is_set:
            return
        loop = running_loop()
        one: asyncio.Future[None] | anyio.Event = anyio.Event() if loop is None else loop.create_future()
        if self._waiting is None:
            self._waiting = [one]
        else:
            self._waiting.append(one)
        try:
            await (one.wait() if isinstance(one, anyio.Event) else one)
        except BaseException:
            if self._waiting is not None:
                self._waiting.remove(one)
            raise
