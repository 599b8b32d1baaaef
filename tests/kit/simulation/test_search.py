"""The search: what breaks a promise is found, cut down, and printed as a test that repeats it."""

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from kit.simulation.toys import Forgetful, Nest, Odd, Reaching, Sound, Stumbling, Touchy
from paths import ROOT

from nodekit.testing.simulation import (
    ENGINE,
    Cluster,
    Found,
    Freeze,
    Kill,
    PromiseBroken,
    SimulationFailed,
    shortest,
    simulate,
)
from nodekit.testing.simulation.search import broken, failing_seeds

SEEDS = range(60)


def breaking(cluster: type[Cluster]) -> Iterator[int]:
    """Yield seeds that break a promise. An engine that forgets is run only where it is killed."""
    seeds = (seed for seed in SEEDS if cluster is not Forgetful or is_the_engine_killed(cluster(seed)))
    return (seed for seed in seeds if broken(cluster(seed, trace=False)) is not None)


def is_the_engine_killed(cluster: Cluster) -> bool:
    return any(isinstance(fault, Kill) and fault.machine == ENGINE for fault in cluster.faults)


@cache
def found(cluster: type[Cluster], seed: int | None = None) -> Found:
    """Return what the search finds for a seed, by default for the first one that breaks a promise."""
    seed = next(breaking(cluster)) if seed is None else seed
    error = broken(cluster(seed, trace=False))
    assert error is not None
    return shortest(cluster, seed, error)


def execute(code: str) -> None:
    """Run a test that was printed: its only function."""
    names: dict[str, Any] = {}
    exec(compile(code, "printed", "exec"), names)
    [test] = [value for name, value in names.items() if name.startswith("test_")]
    test()


# -- what is found --------------------------------------------------------------------------------


def test_a_cluster_that_keeps_its_promises_is_run_once_with_each_seed() -> None:
    Sound.runs, seen = 0, list[int]()
    simulate(Sound, SEEDS, ran=lambda cluster: seen.append(cluster.world.seed))
    assert Sound.runs == len(SEEDS)
    assert seen == list(SEEDS)


def test_the_first_seed_that_breaks_a_promise_is_reported_with_a_test() -> None:
    first = next(breaking(Touchy))
    with pytest.raises(AssertionError, match=f"^seed {first}: toys are kept: ") as error:
        simulate(Touchy, SEEDS)
    assert f"def test_seed_{first}() -> None:" in str(error.value)


def test_the_shortest_schedule_has_nothing_that_could_be_left_out() -> None:
    for seed in breaking(Touchy):
        one = found(Touchy, seed)
        assert sorted(type(fault).__name__ for fault in one.faults) == ["Freeze", "Kill"]
        assert set(one.jobs) == {"job-3", "job-11"}
        assert set(one.faults) <= set(Touchy(seed).faults)
        assert str(one.error) == "toys are kept: 2 faults and\n2 jobs were too much"


def test_its_faults_are_in_their_order() -> None:
    for seed in breaking(Touchy):
        first, second = found(Touchy, seed).faults
        assert first.at <= second.at


def test_a_schedule_that_breaks_something_else_is_not_taken() -> None:
    seed = next(seed for seed in SEEDS if Stumbling(seed).faults)
    one, whole = found(Stumbling, seed), Stumbling(seed)
    assert one.faults == whole.faults
    assert one.jobs == tuple(whole.jobs)
    assert str(one.error) == "toys are kept: on the whole"


# -- what is printed ------------------------------------------------------------------------------


@pytest.mark.parametrize("cluster", [Touchy, Nest.Touchy, Forgetful], ids=lambda cluster: cluster.__qualname__)
def test_the_printed_test_breaks_the_same_promise(cluster: type[Cluster]) -> None:
    one = found(cluster)
    with pytest.raises(PromiseBroken, match=re.escape(str(one.error))):
        execute(one.test())


def test_the_printed_test_imports_faults_from_where_they_are() -> None:
    one = found(Touchy)
    more = Found(Touchy, one.seed, 3, (Odd("node-1", 0.5), *one.faults), one.jobs, one.error, one.runs)
    assert "from kit.simulation.toys import Odd" in more.test()
    assert "from nodekit.testing.simulation import " in more.test()
    assert "order=3" in more.test()
    with pytest.raises(PromiseBroken, match="3 faults"):
        execute(more.test())


# -- a whole cluster ------------------------------------------------------------------------------


def test_an_engine_that_forgets_is_found_and_cut_down_to_its_end() -> None:
    one = found(Forgetful)
    assert [(type(fault), fault.machine) for fault in one.faults] == [(Kill, ENGINE)]
    assert len(one.jobs) == 1
    assert isinstance(one.error, PromiseBroken)


def test_a_fault_of_ones_own_happens_like_any_other() -> None:
    cluster = Forgetful(1, faults=[Odd("node-1", 1.0, 0.5), Freeze("node-2", 1.0, 0.2)], jobs=["job-1"])
    cluster.run()
    said = [f"{event.machine} {event.text}" for event in cluster.world.trace if event.machine == "node-1"]
    begun, killed = said.index("node-1 it's odd"), said.index("node-1 is killed")
    assert begun < killed < len(said) - 1 - said[::-1].index("node-1 starts")


def test_a_cluster_that_reaches_outside_is_reported_as_such() -> None:
    with pytest.raises(SimulationFailed, match=r"^engine: a simulated process has no threads"):
        Reaching(1).run()


# -- processes and the command line ---------------------------------------------------------------


def test_processes_that_share_the_seeds_find_the_same_as_one() -> None:
    assert list(failing_seeds(Touchy, SEEDS, 2)) == list(failing_seeds(Touchy, SEEDS)) == list(breaking(Touchy))


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    path = f"{ROOT / 'tests'}:{ROOT / 'tests' / 'support'}"
    return subprocess.run(
        [sys.executable, "-m", "nodekit.testing.simulation", *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": path, "PYTHONWARNINGS": "error"},
    )


def test_the_command_says_that_no_promise_was_broken() -> None:
    done = command("--cluster", "kit.simulation.toys:Sound", "--seeds", "0:60")
    assert (done.returncode, done.stdout) == (0, "60 seeds, no promise was broken\n"), done.stderr


def test_the_command_prints_the_first_seed_that_does_as_a_test() -> None:
    done = command("--cluster", "kit.simulation.toys:Touchy", "--seeds", "0:60")
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith(f"seed {next(breaking(Touchy))}: toys are kept: ")
    with pytest.raises(PromiseBroken, match="toys are kept"):
        execute(done.stdout[done.stdout.index("\nfrom ") :])


def test_the_command_prints_a_trace() -> None:
    done = command("--cluster", "kit.simulation.toys:Forgetful", "--seeds", "1", "--trace")
    assert done.returncode == 0, done.stderr
    *trace, last = done.stdout.splitlines()
    times = [float(line.split()[0]) for line in trace]
    assert times == sorted(times)
    assert trace[0].split(maxsplit=1)[1] == "engine    starts"
    assert re.match(r"seed 1: [0-9a-f]{16}, \d+ turns, ", last)
