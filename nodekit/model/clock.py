"""The clocks: this machine's, and that of a node, which follows the engine that several nodes share."""

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

KEPT_SAMPLES = 8
DRIFT = 1e-4
"""Seconds of certainty that a sample loses for each second of its age: the largest error of a steady clock."""


class Clock(Protocol):
    """Source of the time. Everything below a node or a store asks the one that it was given."""

    def time(self) -> float:
        """Return the Unix time in seconds. It may jump, as a wall clock does."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back. Their zero is arbitrary, so that only differences mean anything."""
        ...


class SystemClock:
    """The clock of this machine.

    `time` and `monotonic` are the functions of the module `time` at the moment of the construction: asking them costs
    no further call. A `VirtualClock` that is entered later does not move this clock.
    """

    def __init__(self) -> None:
        self.time: Callable[[], float] = time.time
        self.monotonic: Callable[[], float] = time.monotonic


class _Sample(NamedTuple):
    """One answer of the engine, in seconds.

    - `at`: Steady time of the answer.
    - `base`: Unix time less the steady time.
    - `uncertainty`: Largest error of `base`.
    """

    at: float
    base: float
    uncertainty: float


class NodeClock:
    """The time of a node's jobs, in Unix seconds. At first it is that of the given clock, by default this machine's.

    After a sample of an engine's clock it is the engine's time, carried on by the steady seconds of the given clock:
    its wall clock may be wrong, and may jump.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        clock = SystemClock() if clock is None else clock
        self._time, self.monotonic = clock.time, clock.monotonic
        self._base: float | None = None
        self._samples: deque[_Sample] = deque(maxlen=KEPT_SAMPLES)

    def now(self) -> float:
        return self._time() if self._base is None else self.monotonic() + self._base

    def milliseconds(self) -> int:
        return int((self._time() if self._base is None else self.monotonic() + self._base) * 1000)

    def sample(self, theirs: float, asked_at: float) -> None:
        """Follow another clock, which answered `theirs` to a question of the time `asked_at` of the steady clock.

        The answer belongs to a moment between the question and now. Of the last samples, the most certain one counts.
        """
        at = self.monotonic()
        half = (at - asked_at) / 2
        new = _Sample(at, theirs + half - at, half)
        agreeing = [old for old in self._samples if abs(old.base - new.base) <= half + self._error(old, at)]
        self._samples = deque([*agreeing, new], maxlen=KEPT_SAMPLES)  # the others are from before a clock was set
        self._base = min(self._samples, key=lambda sample: self._error(sample, at)).base

    def _error(self, sample: _Sample, at: float) -> float:
        return sample.uncertainty + DRIFT * (at - sample.at)

    @property
    def skew_seconds(self) -> float:
        """Difference of this machine's wall clock from the time shown; positive if it is ahead."""
        return self._time() - self.now()

    @property
    def uncertainty_seconds(self) -> float:
        """Largest error of `skew_seconds`."""
        at = self.monotonic()
        return min((self._error(sample, at) for sample in self._samples), default=0.0)
