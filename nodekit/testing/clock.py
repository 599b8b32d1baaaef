"""A clock that tests control: an hour of waiting takes a millisecond."""

import asyncio
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.lowlevel

from nodekit.concurrency.time_limit import LEAPT

_TURNS = 100
"""Turns of the event loop after an advance, for woken tasks and those that they wake in turn."""
_NAMES = ("time", "time_ns", "monotonic", "monotonic_ns")


class VirtualClock:
    """Moves `time.time`, `time.monotonic`, their `_ns` twins and the event loop's time while it is entered.

    Time still flows in between, so threads, sockets and time limits work; only the reading is shifted. Enter the clock
    before you make the nodes and stores that it moves: each keeps the clock that it finds when it is made. Leave it
    afterwards: leaving restores everything, including the time. It affects all code in this process that calls
    `time.time()` through the module. It does not affect a `SystemClock` made before, `from time import time`,
    `datetime.now`, another process, or an event loop with a clock of its own, such as uvloop's. Clocks can be nested::

        with VirtualClock() as clock:
            async with make_node() as node:
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
        self._wall_ns = self._flow_ns = 0  # for those that keep the functions

    async def advance(self, seconds: float) -> None:
        """Let time pass at once, as for a machine that sleeps: ready tasks run before, tasks that became due run after.

        This is one leap: a task that waits for an hour twice, one after the other, needs two advances. Threads run at
        their own speed: wait for the effect that you expect of them.
        """
        if seconds < 0:
            raise ValueError("time does not go backwards; `jump` moves the wall clock alone, in either direction")
        await _turns()
        self.jump(seconds)
        before = anyio.current_time()
        self._flow_ns += round(seconds * 1e9)
        if (trio_clock := _trio_clock()) is not None:
            _shift(trio_clock, seconds)
            self._moved.append((trio_clock, seconds))
        else:
            loop = asyncio.get_running_loop()
            setattr(loop, LEAPT, getattr(loop, LEAPT, 0.0) + seconds)
        if anyio.current_time() - before < seconds / 2:
            raise RuntimeError("this event loop has a clock of its own (uvloop?); run the test on asyncio's or trio's")
        await _turns()

    def jump(self, seconds: float) -> None:
        """Step the wall clock (`time.time`) forwards or backwards, as an operator or NTP does. No time passes."""
        if not self._real:
            raise RuntimeError("the clock is not entered; write `with VirtualClock() as clock:`")
        self._wall_ns += round(seconds * 1e9)


async def _turns() -> None:
    for _ in range(_TURNS):
        await anyio.lowlevel.checkpoint()


def _shift(trio_clock: Any, seconds: float) -> None:
    object.__setattr__(trio_clock, "offset", trio_clock.offset + seconds)  # the class is frozen for all code but tests


def _trio_clock() -> Any:
    """Return the clock of trio's loop. Return None on asyncio, where the loop asks `time.monotonic` each time."""
    if hasattr(anyio.lowlevel.current_token().native_token, "call_soon_threadsafe"):  # an asyncio loop
        return None
    return sys.modules["trio"].lowlevel.current_clock()
