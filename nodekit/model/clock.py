"""The clock of a node, which follows the clock of the engine that several nodes share."""

import time
from collections import deque
from typing import NamedTuple

KEPT_SAMPLES = 8
DRIFT = 1e-4
"""Seconds of certainty that a sample loses for each second of its age: the largest error of a steady clock."""


class _Sample(NamedTuple):
    """One answer of the engine, in seconds.

    - `at`: Steady time of the answer.
    - `base`: Unix time less the steady time.
    - `uncertainty`: Largest error of `base`.
    """

    at: float
    base: float
    uncertainty: float


class Clock:
    """The time in Unix seconds. By default it is this machine's.

    After a sample of an engine's clock it is the engine's time, carried on by the steady clock of this machine: its
    wall clock may be wrong, and may jump.
    """

    def __init__(self) -> None:
        self._base: float | None = None
        self._samples: deque[_Sample] = deque(maxlen=KEPT_SAMPLES)

    def now(self) -> float:
        return time.time() if self._base is None else time.monotonic() + self._base

    def milliseconds(self) -> int:
        return time.time_ns() // 1_000_000 if self._base is None else int(self.now() * 1000)

    def sample(self, theirs: float, asked_at: float) -> None:
        """Follow another clock, which answered `theirs` to a question of the time `asked_at` of the steady clock.

        The answer belongs to a moment between the question and now. Of the last samples, the most certain one counts.
        """
        at = time.monotonic()
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
        return time.time() - self.now()

    @property
    def uncertainty_seconds(self) -> float:
        """Largest error of `skew_seconds`."""
        at = time.monotonic()
        return min((self._error(sample, at) for sample in self._samples), default=0.0)
