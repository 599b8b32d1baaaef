"""Blocking calls in threads of their own, for which nothing has to wait.

Python joins anyio's threads when it ends, so a call to an engine that hangs would hold up the node's end. It does not
join these threads, and giving up a call does not wait for its thread. Each call has its own thread: starting one takes
a tenth of a millisecond, and an engine's quickest answer takes three. On a busy machine, however, starting a thread
blocks until a processor runs it, which can take tens of milliseconds. So a thread starts them, not the event loop.
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
    """The threads that run calls on behalf of an asyncio loop."""

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
        """End the thread that starts the others. Calls that run go on to their end."""
        wanted, self._wanted = self._wanted, None
        if wanted is not None:
            wanted.put(None)

    async def run(self, function: Callable[[], T], *, followed: bool) -> T:
        """Return the result of the function. Cancelling gives the call up: its thread goes on, its result is dropped.

        If `followed` is True, `idle` waits for the call even then.
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
                deliver(call.set_exception, error)
            else:
                deliver(call.set_result, result)

        def deliver(how: Callable[[Any], None], what: Any) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits for the result
                loop.call_soon_threadsafe(how, what)

        self.start(work)
        return await asyncio.shield(call)

    def _ended(self, call: "asyncio.Future[Any]") -> None:
        self._calls.discard(call)
        call.exception()  # nobody else retrieves the error of a call that was given up

    async def idle(self, seconds: float) -> bool:
        """Wait until no followed call is under way, given up or not. Return False if `seconds` are over before."""
        if self._calls:
            await asyncio.wait(self._calls, timeout=seconds)
        return not self._calls


def _start_each(wanted: "SimpleQueue[Callable[[], object] | None]") -> None:
    while (function := wanted.get()) is not None:
        threading.Thread(target=function, name=NAME, daemon=True).start()
