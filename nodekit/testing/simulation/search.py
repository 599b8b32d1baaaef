"""The search for the shortest schedule of faults that still breaks a promise, and the test that repeats it."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import TypeVar

from nodekit import NodekitError
from nodekit.testing.simulation.cluster import Cluster
from nodekit.testing.simulation.faults import Fault
from nodekit.testing.simulation.ledger import PromiseBroken
from nodekit.testing.simulation.world import World

T = TypeVar("T")

ORDERS = 6
"""Number of orders of ready tasks in which each shorter schedule is tried: fewer faults change what comes when."""

STORY_LINES = 24
"""Number of lines of a trace that are told."""
_JOB_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_PART = 10
"""Number of seeds that a process runs before it asks for more."""


@dataclass(frozen=True)
class Found:
    """A seed with which a cluster breaks a promise, cut down to what it takes.

    - `jobs`: Keys of the jobs that clients submit.
    - `runs`: Number of runs that the search took.
    - `story`: The end of what happened in the shortest run to the jobs that the error names, and to machines.
    """

    cluster: type[Cluster]
    seed: int
    order: int
    faults: tuple[Fault, ...]
    jobs: tuple[str, ...]
    error: NodekitError
    runs: int
    story: tuple[str, ...] = ()

    def test(self) -> str:
        """Return a test that repeats it, as Python code."""
        name = self.cluster.__qualname__.rpartition("<locals>.")[2]
        names: dict[str, set[str]] = {}
        names[_public(self.cluster.__module__)] = {name.partition(".")[0]}
        for kind in map(type, self.faults):
            names.setdefault(_public(kind.__module__), set()).add(kind.__name__)
        lines = [
            *(f"from {module} import {', '.join(sorted(used))}" for module, used in sorted(names.items())),
            "",
            "",
            f"def test_seed_{self.seed}() -> None:",
            *(f"    # {line}" for line in str(self.error).splitlines()),
            f"    {name}(",
            f"        {self.seed},",
            *([f"        order={self.order},"] if self.order else []),
            f"        jobs=[{', '.join(map(repr, self.jobs))}],",
            "        faults=[",
            *(f"            {fault!r}," for fault in self.faults),
            "        ],",
            "    ).run()",
            *(f"    # {line}" for line in self.story),
        ]
        return "\n".join(lines)


def broken(cluster: Cluster) -> NodekitError | None:
    """Run a cluster. Return the promise that it broke, or None."""
    try:
        cluster.run()
    except NodekitError as error:
        return error
    return None


def simulate(
    cluster: type[Cluster] = Cluster, seeds: Iterable[int] = range(50), *, ran: Callable[[Cluster], None] | None = None
) -> None:
    """Run a cluster with each seed. `ran` is called after each run.

    Raise `AssertionError` for the first seed with which it breaks a promise. The message has the shortest schedule of
    faults that was found for it, as a test.
    """
    for seed in seeds:
        run = cluster(seed, trace=ran is not None)
        error = broken(run)
        if ran is not None:
            ran(run)
        if error is not None:
            found = shortest(cluster, seed, error)
            raise AssertionError(f"seed {seed}: {error}\n\nThe shortest schedule that was found:\n\n{found.test()}\n")


def failing_seeds(cluster: type[Cluster], seeds: Sequence[int], processes: int = 1) -> Iterator[int]:
    """Yield the seeds with which a cluster breaks a promise. The processes that share the work import it."""
    if processes == 1:
        yield from (seed for seed in seeds if _breaks(cluster, seed))
        return
    parts = [seeds[first : first + _PART] for first in range(0, len(seeds), _PART)]
    pool = ProcessPoolExecutor(processes, get_context("spawn"))
    try:
        for failing in pool.map(partial(_failing_of, cluster), parts):
            yield from failing
    finally:
        pool.shutdown(cancel_futures=True)


def _failing_of(cluster: type[Cluster], seeds: Sequence[int]) -> list[int]:
    logging.disable(logging.CRITICAL)
    return [seed for seed in seeds if _breaks(cluster, seed)]


def _breaks(cluster: type[Cluster], seed: int) -> bool:
    return broken(cluster(seed, trace=False)) is not None


def shortest(cluster: type[Cluster], seed: int, error: NodekitError) -> Found:
    """Cut down what happens with a seed that breaks a promise: the faults, the jobs, and so on while that helps."""
    search, before = _Search(cluster, seed, error), -1
    while (size := len(search.faults) + len(search.jobs)) != before:
        before = size
        search.faults = search.reduced(search.faults, lambda faults: search.fails(faults, search.jobs))
        search.jobs = search.reduced(search.jobs, lambda jobs: search.fails(search.faults, jobs))
    again = cluster(seed, order=search.order, faults=search.faults, jobs=search.jobs)
    error = broken(again) or search.error
    story = tuple(_story(str(error), again.world))
    return Found(cluster, seed, search.order, search.faults, search.jobs, error, search.runs, story)


class _Search:
    def __init__(self, cluster: type[Cluster], seed: int, error: NodekitError) -> None:
        self._cluster, self._seed, self.error = cluster, seed, error
        whole = cluster(seed, trace=False)
        self.faults, self.jobs = whole.faults, tuple(whole.jobs)
        self.order = self.runs = 0

    def fails(self, faults: Sequence[Fault], jobs: Sequence[str]) -> bool:
        """Return True if the same promise is broken with this alone, in one of the orders."""
        for order in dict.fromkeys([self.order, *range(ORDERS)]):
            self.runs += 1
            error = broken(self._cluster(self._seed, faults=faults, jobs=jobs, order=order, trace=False))
            if error is not None and _kind(error) == _kind(self.error):
                self.order, self.error = order, error
                return True
        return False

    def reduced(self, items: tuple[T, ...], fails: Callable[[tuple[T, ...]], bool]) -> tuple[T, ...]:
        """Leave out as much as possible: everything, then halves, then smaller parts, then single items."""
        size = len(items)
        while size:
            start, before = 0, len(items)
            while start < len(items):
                rest = (*items[:start], *items[start + size :])
                if fails(rest):
                    items = rest
                else:
                    start += size
            if size > 1:
                size //= 2
            elif len(items) == before:
                break
        return items


def _story(error: str, world: World) -> list[str]:
    """Return the end of a trace: what happened to machines and to the jobs that the error names, or else to all."""
    jobs = [id[-6:] for id in _JOB_ID.findall(error)] or [""]
    told = [
        str(event) for event in world.trace if event.machine in world.machines or any(job in event.text for job in jobs)
    ]
    return told[-STORY_LINES:]


def _public(module: str) -> str:
    """Return the module from which a class is imported: the package, for those of simulations."""
    package = __name__.rpartition(".")[0]
    return package if module.startswith(f"{package}.") else module


def _kind(error: NodekitError) -> str:
    return error.promise if isinstance(error, PromiseBroken) else type(error).__name__
