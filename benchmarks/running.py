"""Rounds of a scenario: its subjects in turn, so that a slow minute of the machine is one of all of them."""

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, TypeAlias

from load import Gets, Jobs, Load
from processes import BenchError
from scenarios import Scenario, Start, Streams
from streams import streamed
from subjects import Kind, Subject, fill, node_process

Figures: TypeAlias = dict[str, float]
Rounds: TypeAlias = dict[str, list[Figures]]
"""Figures of each round by subject."""


class Round(NamedTuple):
    """The number of rounds, and the length of one. With `plant`, each load returns one wrong result."""

    rounds: int
    seconds: float
    plant: bool = False


FIRST, FIRST_BYTES = 50, 10_000_000
"""Requests of the first round, and bytes of their payloads at most. It warms up, and shows how many fit the time."""


def run(scenario: Scenario | Start | Streams, rounds: Round, say: Callable[[str], object]) -> Rounds:
    """Run all rounds of a scenario. Subjects that cannot be started here are left out, which is said."""
    kinds: list[Kind] = []
    for kind in scenario.subjects:
        if why := kind.missing():
            say(f"  {kind.name} is left out: {why}")
        else:
            kinds.append(kind)
    if isinstance(scenario, Start):
        return {kind.name: _starts(kind, rounds.rounds) for kind in kinds}
    if isinstance(scenario, Streams):
        return asyncio.run(streamed(kinds, rounds.rounds, rounds.seconds))
    with ExitStack() as stack:
        subjects = [stack.enter_context(kind.running(plant=rounds.plant)) for kind in kinds]
        return _rounds(scenario, subjects, rounds)


def _rounds(scenario: Scenario, subjects: list[Subject], rounds: Round) -> Rounds:
    loads = {subject.name: _load(scenario.load, subject) for subject in subjects}
    counts = {one.name: scenario.count or count_for(one, loads[one.name], rounds.seconds) for one in subjects}
    found: Rounds = {subject.name: [] for subject in subjects}
    for _ in range(rounds.rounds):
        for subject in subjects:
            found[subject.name].append(once(subject, loads[subject.name], counts[subject.name]))
    return found


def _load(load: Jobs | Gets, subject: Subject) -> Jobs | Gets:
    """Return the load with the id of the oldest job of the subject."""
    if isinstance(load, Gets) and "{id}" in load.path:
        oldest = json.loads(subject.get("/api/jobs?limit=1"))
        return load._replace(path=load.path.format(id=oldest[0]))
    return load


def count_for(subject: Subject, load: Jobs | Gets, seconds: float) -> int:
    """Return a number of jobs that takes about this long, and fits the clients and their batches."""
    group = load.batch * load.clients
    payload = load.payload if isinstance(load, Jobs) else 1
    first = group * max(1, min(FIRST, FIRST_BYTES // payload) // group)
    once(subject, load, first)  # connections are made, and modules imported
    rate = once(subject, load, first)["per second"]
    return group * max(1, round(rate * seconds / group))


def once(subject: Subject, load: Jobs | Gets, count: int) -> Figures:
    """Run one round. Raise `BenchError` if a result is wrong."""
    used, spent = subject.cpu_seconds(), subject.load.cpu_seconds()
    try:
        took = subject.load.begin(load, subject.port, count, subject.header)
        used, spent = subject.cpu_seconds() - used, subject.load.cpu_seconds() - spent
        median, last = subject.load.verify()
    except BenchError as error:
        raise BenchError(f"{subject.name}: {error}") from error
    return {
        "per second": count / took,
        "cpu us": used / count * 1e6,
        "load cpu us": spent / count * 1e6,
        "median ms": median,
        "p99 ms": last,
        "memory mb": subject.memory_mb(),
        "peak mb": subject.memory_mb("VmHWM"),
        "seconds": took,
    }


def _starts(kind: Kind, rounds: int) -> list[Figures]:
    """Start a node anew on the same unfinished jobs. Few of them finish meanwhile, one at a time."""
    found: list[Figures] = []
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        load = Load(folder)
        stack.callback(load.end)
        (folder / "node.toml").write_text(kind.node_file(load.container).replace("concurrency = 64", "concurrency = 1"))
        fill(folder / "jobs.db", kind.stored, kind.queued)
        for _ in range(rounds):
            began = time.perf_counter()
            node = node_process(folder)
            try:
                node.line("listening on")
                took = time.perf_counter() - began
                found.append({"seconds": took, "cpu ms": node.cpu_seconds() * 1000, "memory mb": node.memory_mb()})
            finally:
                node.end()
    return found


def summary(rounds: Rounds) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Return the median, the least and the largest of each figure, by subject."""
    return {
        subject: {
            name: (statistics.median(values), min(values), max(values))
            for name in figures[0]
            for values in [[one[name] for one in figures]]
        }
        for subject, figures in rounds.items()
        if figures
    }
