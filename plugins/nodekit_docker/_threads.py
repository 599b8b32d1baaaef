"""Blocking calls in threads of their own, which nobody has to wait for.

anyio's threads are joined when Python ends, so that a call to an engine that hangs would hold up the node's end.
These are not, and giving up a call does not wait for its thread. One thread per call: starting it costs a tenth of
a millisecond, and the quickest answer of an engine takes three.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class Threads:
    """Runs calls on an asyncio loop's behalf."""

    def __init__(self) -> None:
        self._calls: set[asyncio.Future[Any]] = set()

    async def run(self, function: Callable[[], T], *, followed: bool) -> T:
        """The result of the function. Cancelling gives it up: its thread goes on, its result is dropped.

        `followed`: whether `idle` waits for it all the same.
        """
        loop = asyncio.get_running_loop()
        call: asyncio.Future[T] = loop.create_future()
        call.add_done_callback(self._ended)
        if followed:
            self._calls.add(call)

        def work() -> None:
            try:
                result = function()
            except Exception as error:
                tell(call.set_exception, error)
            else:
                tell(call.set_result, result)

        def tell(how: Callable[[Any], None], what: Any) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody wants to know
                loop.call_soon_threadsafe(how, what)

        threading.Thread(target=work, name="nodekit-docker", daemon=True).start()
        return await asyncio.shield(call)

    def _ended(self, call: "asyncio.Future[Any]") -> None:
        self._calls.discard(call)
        call.exception()  # of one that was given up, nobody else asks

    async def idle(self, seconds: float) -> bool:
        """Wait until none that is followed is under way, given up or not; whether that is so in time."""
        if self._calls:
            await asyncio.wait(self._calls, timeout=seconds)
        return not self._calls
