"""A clock that tests move: what waits for an hour is tested in a millisecond."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.lowlevel

_TURNS = 100
"""Of the event loop, for what an advance woke and what that wakes in turn."""
_NAMES = ("time", "time_ns", "monotonic", "monotonic_ns")


class VirtualClock:
    """Moves `time.time`, `time.monotonic`, their `_ns` twins and the event loop's time while it is entered.

    Time flows on as ever in between, so threads, sockets and time limits work; only the reading is shifted. Enter it
    before what it is to move and leave it after that: leaving puts everything back, and time with it. It reaches
    whoever calls `time.time()` through the module, in this process; not `from time import time`, not `datetime.now`,
    not another process, and no event loop with a clock of its own, such as uvloop's. A clock may be used in another::

        with VirtualClock() as clock:
            async with node:
                job = await node.submit(request)
                await clock.advance(3600)
    """

    def __init__(self) -> None:
        self._wall_ns = self._flow_ns = 0
        self._real: dict[str, Callable[[], Any]] = {}
        self._moved: list[tuple[Any, float]] = []

    def __enter__(self) -> Self:
        real = self._real = {name: getattr(time, name) for name in _NAMES}
        shifted: dict[str, Callable[[], Any]] = {
            "time": lambda: real["time"]() + self._wall_ns / 1e9,
            "time_ns": lambda: real["time_ns"]() + self._wall_ns,
            "monotonic": lambda: real["monotonic"]() + self._flow_ns / 1e9,
            "monotonic_ns": lambda: real["monotonic_ns"]() + self._flow_ns,
        }
        for name, function in shifted.items():
            setattr(time, name, function)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, function in self._real.items():
            setattr(time, name, function)
        while self._moved:
            clock, seconds = self._moved.pop()
            _shift(clock, -seconds)
        self._real = {}

    async def advance(self, seconds: float) -> None:
        """Let so much time pass at once, as when a machine sleeps: what is ready runs before, what became due after.

        One leap: what waits for an hour twice, one after the other, needs two advances. What goes on in threads takes
        its own time: wait for what you expect of it.
        """
        if seconds < 0:
            raise ValueError("time does not pass backwards; `jump` steps the wall clock alone, in either direction")
        await _turns()
        self.jump(seconds)
        before = anyio.current_time()
        self._flow_ns += round(seconds * 1e9)
        if (trio_clock := _trio_clock()) is not None:
            _shift(trio_clock, seconds)
            self._moved.append((trio_clock, seconds))
        if anyio.current_time() - before < seconds / 2:
            raise RuntimeError("this event loop has a clock of its own (uvloop?); run the test on asyncio's or trio's")
        await _turns()

    def jump(self, seconds: float) -> None:
        """Step the wall clock (`time.time`), forwards or backwards, as an operator or NTP does. No time passes."""
        if not self._real:
            raise RuntimeError("the clock is not entered; write `with VirtualClock() as clock:`")
        self._wall_ns += round(seconds * 1e9)


async def _turns() -> None:
    for _ in range(_TURNS):
        await anyio.lowlevel.checkpoint()


def _shift(trio_clock: Any, seconds: float) -> None:
    object.__setattr__(trio_clock, "offset", trio_clock.offset + seconds)  # a frozen class, for whoever is not a test


def _trio_clock() -> Any:
    """The clock of trio's loop, where that is the loop that runs. Asyncio's asks `time.monotonic` each time."""
    if hasattr(anyio.lowlevel.current_token().native_token, "call_soon_threadsafe"):  # a loop of asyncio
        return None
    return sys.modules["trio"].lowlevel.current_clock()
