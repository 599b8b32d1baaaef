"""The cluster of the kit keeps its promises in simulations, and a simulation is the same each time."""

import subprocess
import sys
from collections.abc import Mapping

import anyio
import pytest
from chance import DRILLS, SEED, each_run

from nodekit.testing.simulation import Cluster, Freeze, Kill, Reset, SimulationFailed, Slow, shortest, simulate
from nodekit.testing.simulation.search import broken, failing_seeds

SEEDS = range(SEED * 10_000, SEED * 10_000 + each_run(50, 10_000))
SAME_SEEDS = range(3)


def test_a_cluster_keeps_its_promises() -> None:
    if not DRILLS:
        simulate(Cluster, SEEDS)
    for seed in failing_seeds(Cluster, SEEDS, 2) if DRILLS else ():
        error = broken(Cluster(seed, trace=False))
        assert error is None, shortest(Cluster, seed, error).test()


FOUND = {
    "a pause that nobody else hears of": Cluster(
        7473, order=5, jobs=["job-7", "job-6"], faults=[Kill("node-3", 0.165, 3.193), Freeze("node-2", 2.366, 3.036)]
    ),
    "a claim that is given up while its session goes on": Cluster(
        8204, jobs=["job-13"], faults=[Slow("node-2", 2.801, 4.158, latency_seconds=0.653), Reset("node-2", 4.642, 1.0)]
    ),
}
"""Schedules that broke a promise once, in the kit's store or in the ledger itself."""


@pytest.mark.parametrize("cluster", FOUND.values(), ids=FOUND)
def test_what_was_found_is_repaired(cluster: Cluster) -> None:
    cluster.run()


def digests(*options: str, **environment: str) -> Mapping[int, str]:
    """Return the digests of some simulations in a process of its own, by seed."""
    done = subprocess.run(
        [
            *(sys.executable, *options, "-m", "nodekit.testing.simulation", "--digests"),
            *("--seeds", f"{SAME_SEEDS.start}:{SAME_SEEDS.stop}"),
        ],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    lines = [line.removeprefix("seed ").split(maxsplit=1) for line in done.stdout.splitlines()]
    return {int(seed.rstrip(":")): said for seed, said in lines}


@pytest.fixture(scope="module")
def here() -> Mapping[int, str]:
    """Run the same simulations in this process, one after the other."""
    said: dict[int, str] = {}
    for seed in SAME_SEEDS:
        cluster = Cluster(seed)
        error = broken(cluster)
        said[seed] = f"{cluster.world.digest}, {cluster.world.loop.steps} turns, {error or 'ok'}"
    return said


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONHASHSEED": "1"},
        {"PYTHONHASHSEED": "2", "PYTHONMALLOC": "debug"},
        {"PYTHONHASHSEED": "3", "PYTHONDEVMODE": "1"},
    ],
    ids=str,
)
def test_a_simulation_is_the_same_in_another_process(here: Mapping[int, str], environment: dict[str, str]) -> None:
    assert digests(**environment) == here


def test_a_simulation_does_not_depend_on_whether_it_is_traced(here: Mapping[int, str]) -> None:
    cluster = Cluster(SAME_SEEDS[0], trace=False)
    cluster.run()
    assert f", {cluster.world.loop.steps} turns, " in here[SAME_SEEDS[0]]
    assert cluster.world.trace == []


def test_seeds_and_orders_differ(here: Mapping[int, str]) -> None:
    other = Cluster(SAME_SEEDS[0], order=1)
    broken(other)
    assert len({said[:16] for said in here.values()} | {other.world.digest}) == len(SAME_SEEDS) + 1


def test_what_a_seed_gives_does_not_depend_on_the_order() -> None:
    one, other = Cluster(7), Cluster(7, order=1)
    assert (one.faults, one.jobs, one.placed) == (other.faults, other.jobs, other.placed)


def test_faults_and_jobs_can_be_left_out() -> None:
    cluster = Cluster(7, faults=[], jobs=["job-3"])
    cluster.run()
    assert list(cluster.jobs) == ["job-3"]
    assert not [event for event in cluster.world.trace if event.text.startswith("fault")]


def test_a_simulation_inside_of_a_loop_says_that_it_needs_its_own() -> None:
    async def main() -> None:
        Cluster(1).run()

    with pytest.raises(SimulationFailed, match="call it from code that is not async"):
        anyio.run(main)
