"""Blocking calls in threads of their own, which nobody has to wait for.

anyio's threads are joined when Python ends, so that a call to an engine that hangs would hold up the node's end.
These are not, and giving up a call does not wait for its thread. One thread per call: starting it costs a tenth of
a millisecond, and the quickest answer of an engine takes three. On a busy machine, though, who starts a thread waits
until a processor has begun it, tens of milliseconds at times: so a thread starts them, not the event loop.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

NAME = "nodekit-docker"


class Threads:
    """Runs calls on an asyncio loop's behalf."""

    def __init__(self) -> None:
        self._calls: set[asyncio.Future[Any]] = set()
        self._wanted: SimpleQueue[Callable[[], object] | None] | None = None

    def start(self, function: Callable[[], object]) -> None:
        """Call the function in a thread, soon."""
        if self._wanted is None:
            self._wanted = SimpleQueue()
            threading.Thread(target=_start_each, args=(self._wanted,), name=NAME, daemon=True).start()
        self._wanted.put(function)

    def close(self) -> None:
        """Let go of the thread that starts them; those that run, run to their end."""
        wanted, self._wanted = self._wanted, None
        if wanted is not None:
            wanted.put(None)

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

        self.start(work)
        return await asyncio.shield(call)

    def _ended(self, call: "asyncio.Future[Any]") -> None:
        self._calls.discard(call)
        call.exception()  # of one that was given up, nobody else asks

    async def idle(self, seconds: float) -> bool:
        """Wait until none that is followed is under way, given up or not; whether that is so in time."""
        if self._calls:
            await asyncio.wait(self._calls, timeout=seconds)
        return not self._calls


def _start_each(wanted: "SimpleQueue[Callable[[], object] | None]") -> None:
    while (function := wanted.get()) is not None:
        threading.Thread(target=function, name=NAME, daemon=True).start()
