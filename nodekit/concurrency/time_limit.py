"""A time limit that counts only the time that this process had.

A process may be stopped for seconds: by a signal, a debugger, a suspended virtual machine, a machine without processors
to spare. Afterwards its timers are over before it has read what arrived meanwhile. A limit on the wall clock would then
blame a container for a time in which nobody could have heard it.
"""

from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

import anyio

from nodekit.concurrency.loop import running_loop
from nodekit.concurrency.scopes import cancel_scope

if TYPE_CHECKING:
    import asyncio

SLICE_SECONDS = 1.0
"""Longest time between two looks at the clock, and so the precision with which lost time is known."""
LATE_SECONDS = 0.1
"""Delay of a timer from which on it counts as lost time. Loops with much to do are late by less."""
LEAST_SECONDS = 0.005
"""Rest of a limit that is not worth another look."""
LEAPT = "nodekit_leapt_seconds"
"""Attribute of an event loop: the seconds by which a test has moved its time."""
LIMITS = "nodekit_time_limits"
"""Attribute of an event loop: the `TimeLimits` of all code that has none of its own."""


def time_limit(seconds: float) -> AbstractContextManager[anyio.CancelScope]:
    """Cancel the block after so many seconds, as `anyio.move_on_after` does, but do not count lost time.

    Time is lost while the process is stopped or its event loop does not come round. A leap of a test's `VirtualClock`
    counts. On trio, all time counts.
    """
    if (loop := running_loop()) is None:
        return anyio.move_on_after(seconds)
    limits: TimeLimits | None = getattr(loop, LIMITS, None)
    if limits is None:
        setattr(loop, LIMITS, limits := TimeLimits())
    return limits.limit(seconds)


class TimeLimits:
    """The limits that run on one event loop. One timer serves all of them, and finds out if it was late."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._limits: dict[_Limit, None] = {}
        self._lost = 0.0
        """Seconds that were lost so far. The time of the process is that of the loop without these."""
        self._timer: asyncio.TimerHandle | None = None
        self._armed_at = self._due_at = self._leapt = 0.0

    def limit(self, seconds: float) -> AbstractContextManager[anyio.CancelScope]:
        """Do as `time_limit` does."""
        loop = self._loop or running_loop()
        if loop is None:
            return anyio.move_on_after(seconds)
        self._loop = loop
        return _Limit(self, seconds)

    def begin(self, limit: "_Limit", seconds: float) -> None:
        assert self._loop is not None
        now = self._loop.time()
        if self._timer is not None and now > self._due_at:
            self._account(now)
        limit.until = now - self._lost + max(0.0, seconds)
        self._limits[limit] = None
        at = min(limit.until + self._lost, now + SLICE_SECONDS)
        if self._timer is None or at < self._due_at:
            self._arm(now, at)

    def end(self, limit: "_Limit") -> None:
        self._limits.pop(limit, None)

    def _arm(self, now: float, at: float) -> None:
        assert self._loop is not None
        if self._timer is not None:
            self._timer.cancel()
        self._armed_at, self._due_at, self._leapt = now, at, _leapt(self._loop)
        self._timer = self._loop.call_at(at, self._look)

    def _account(self, now: float) -> None:
        """Count the time that was lost since the timer was armed, if it is late."""
        assert self._loop is not None
        late = now - self._due_at - (_leapt(self._loop) - self._leapt)
        if late > LATE_SECONDS:
            # how much of the time before had passed when the process was stopped is not known; half of it counts, so
            # that what has arrived is read, and limits end
            self._lost += late + (self._due_at - self._armed_at) / 2
        self._armed_at = self._due_at = now
        self._leapt = _leapt(self._loop)

    def _look(self) -> None:
        assert self._loop is not None
        now = self._loop.time()
        self._account(now)
        own_now = now - self._lost
        for limit in [limit for limit in self._limits if limit.until - own_now <= LEAST_SECONDS]:
            del self._limits[limit]
            limit.scope.cancel()
        self._timer = None
        if self._limits:
            first = min(limit.until for limit in self._limits)
            self._arm(now, min(first + self._lost, now + SLICE_SECONDS))


class _Limit:
    """A cancel scope with a time limit."""

    __slots__ = ("_limits", "_seconds", "scope", "until")

    def __init__(self, limits: TimeLimits, seconds: float) -> None:
        self._limits = limits
        self._seconds = seconds
        self.scope = cancel_scope()
        self.until = 0.0
        """Time of the process at which it is over."""

    def __enter__(self) -> anyio.CancelScope:
        self.scope.__enter__()
        self._limits.begin(self, self._seconds)
        return self.scope

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._limits.end(self)
        return self.scope.__exit__(kind, error, trace)


def _leapt(loop: "asyncio.AbstractEventLoop") -> float:
    seconds: float = getattr(loop, LEAPT, 0.0)
    return seconds
