"""The judge of a soak: series that should be flat, and are not if something leaks."""

import statistics
from collections.abc import Sequence

import msgspec

MEGABYTE = 1 << 20
LEAST = 12
"""Number of samples without which nothing is said."""
MOST = 200
"""Number of samples to which a series is thinned out; the slope compares each with each."""

Series = Sequence[tuple[float, float]]


class Bound(msgspec.Struct, frozen=True):
    """Growth that is allowed: so much, and a share of what was there.

    - `factor`: What a number is divided by before it is shown.
    """

    key: str
    title: str
    unit: str
    absolute: float
    share: float = 0.0
    factor: float = 1.0

    def shown(self, value: float) -> str:
        value /= self.factor
        return f"{value:.1f}" if self.factor > 1 else f"{value:.0f}"


BOUNDS = (
    # An allocator gives back in pieces, and large bodies come and go. Half an hour shows some 600 bytes per job.
    Bound("node", "memory of the node", "MiB", 12 * MEGABYTE, 0.04, MEGABYTE),
    # Allocations of Python objects, without the noise of the allocator. Half an hour shows one object per job.
    Bound("blocks", "objects of Python in it", "thousand", 12_000, 0.04, 1000.0),
    # Forks of one small interpreter that do next to nothing.
    Bound("supervision", "memory of supervisors", "MiB", 4 * MEGABYTE, 0.04, MEGABYTE),
    Bound("containers", "memory of its containers", "MiB", 8 * MEGABYTE, 0.05, MEGABYTE),
    # Connections of clients and to containers, of which there are more or fewer at any moment. None is left at the end.
    Bound("descriptors", "descriptors of the node", "", 20, 0.1),
    # Pools of threads grow on demand up to a limit.
    Bound("threads", "threads of the node", "", 6),
    Bound("processes", "processes under it", "", 1),
    Bound("tasks", "tasks of its event loop", "", 30, 0.1),
    # Finished jobs are deleted, logs rotated: the rest is the mixture of small and large jobs that are kept right now,
    # or wait to be deleted on a busy machine. At the end, all of it is gone.
    Bound("disk", "disk: jobs, their log, the log files", "MiB", 48 * MEGABYTE, 0.25, MEGABYTE),
)


class Verdict(msgspec.Struct, frozen=True):
    """The judgement of a series: medians of the first and the last third of what is judged.

    - `drift`: Growth over the same distance by the median of all slopes (Theil and Sen).
    """

    bound: Bound
    before: float
    after: float
    drift: float
    allowed: float
    samples: int

    @property
    def growth(self) -> float:
        """The growth of which both ways are sure: one step in the middle, or an outlier, is not a slope."""
        return min(self.after - self.before, self.drift)

    @property
    def problem(self) -> str:
        if self.samples < LEAST:
            return f"{self.bound.title}: only {self.samples} samples"
        if self.growth <= self.allowed:
            return ""
        grown, allowed = self.bound.shown(self.growth), self.bound.shown(self.allowed)
        return f"{self.bound.title}: grew by {grown} {self.bound.unit}, {allowed} is allowed".replace("  ", " ")


def judged(series: Series, begin: float, end: float, bound: Bound) -> Verdict:
    """Judge what a series does between two times."""
    part = [(at, value) for at, value in series if begin <= at <= end]
    if len(part) < LEAST:
        return Verdict(bound, 0, 0, 0, 0, len(part))
    third = (part[-1][0] - part[0][0]) / 3
    before = statistics.median(value for at, value in part if at <= part[0][0] + third)
    after = statistics.median(value for at, value in part if at >= part[-1][0] - third)
    drift = slope(part) * 2 * third
    return Verdict(bound, before, after, drift, bound.absolute + bound.share * before, len(part))


def slope(series: Series) -> float:
    """Return the median of the slopes between all pairs: almost a third of the samples may be anything at all."""
    thin = [series[number * len(series) // MOST] for number in range(MOST)] if len(series) > MOST else series
    slopes = [
        (value - earlier) / (at - before)
        for number, (at, value) in enumerate(thin)
        for before, earlier in thin[:number]
        if at > before
    ]
    return statistics.median(slopes) if slopes else 0.0
