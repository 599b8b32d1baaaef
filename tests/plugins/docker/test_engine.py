"""Faults of the engine: jobs end as described, and none is lost."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import anyio
import pytest
from components import until
from docker_runs import (
    PATIENCE_SECONDS,
    Bed,
    aside,
    error,
    finished,
    is_down,
    is_up,
    outcome,
    result,
    submitted,
    value,
)
from engine.dockerd import Dockerd

from nodekit import NotStarted, Retry
from nodekit_docker import DockerContainer, DockerRunner, EngineGone
from nodekit_docker.engine.engine import Engine

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),  # docker-py does not close what fails
]

AGAIN = Retry(attempts=5, first_delay_seconds=0.1)
GONE = "the Docker engine unix://"


@pytest.fixture
def dockerd(dockerd: Dockerd, bed: Bed) -> Dockerd:
    """Repair the engine before `bed` checks what is left: `bed` needs the engine."""
    return dockerd


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notice a hanging engine ten times as fast."""
    monkeypatch.setattr("nodekit_docker.engine.presence.HEARTBEAT_SECONDS", 0.5)
    for module in ("presence", "engine"):
        monkeypatch.setattr(f"nodekit_docker.engine.{module}.PING_SECONDS", 0.5)
    monkeypatch.setattr("nodekit_docker.engine.engine.INSPECT_SECONDS", 1.0)


def nap(seconds: float, then: Any) -> Any:
    return {"do": "sleep", "seconds": seconds, "then": then}


async def says_that_the_engine_is_gone(runner: DockerRunner) -> None:
    await until(lambda: any(GONE in problem for problem in runner.nodekit_problems()))


async def says_nothing_of_the_engine(runner: DockerRunner) -> None:
    await until(lambda: not runner.nodekit_problems())


# -- killed and started again ---------------------------------------------------------------------


async def test_an_engine_that_is_killed_takes_containers_along_and_they_are_made_again(
    bed: Bed, dockerd: Dockerd
) -> None:
    patient, hasty = bed.container("patient", retry=AGAIN), bed.container("hasty")
    async with bed.running(patient, hasty) as (node, runner):
        ids = {id: bed.one(id).id for id in ("patient", "hasty")}
        jobs = {id: await submitted(node, nap(3, id), id) for id in ids}
        await until(lambda: len(runner.steps) == 2)
        await aside(dockerd.kill)
        await is_down(runner, "patient")
        await is_down(runner, "hasty")
        await says_that_the_engine_is_gone(runner)
        health = await node.health()
        assert not health.healthy
        assert any(reason.startswith(GONE) for reason in health.reasons)
        due = [await submitted(node, number, "hasty") for number in range(5)]
        (failed,) = await finished(node, jobs["hasty"])
        assert error(failed).kind == "connection"
        assert error(failed).error.endswith("the Docker engine does not answer")
        assert await node.pending() is not None
        assert not [job for job in await node.fetch([job.id for job in due]) if job.status.finished]
        await aside(dockerd.start)
        assert [value(job) for job in await finished(node, jobs["patient"], *due)] == ["patient", *range(5)]
        await says_nothing_of_the_engine(runner)
        assert (await node.health()).healthy
        assert not {bed.one(id).id for id in ids} & set(ids.values())


async def test_with_live_restore_the_same_containers_go_on(bed: Bed, dockerd: Dockerd) -> None:
    await aside(lambda: dockerd.restart(live_restore=True))
    patient, hasty = bed.container("patient", retry=AGAIN), bed.container("hasty")
    async with bed.running(patient, hasty) as (node, runner):
        ids = {id: (bed.one(id).id, bed.one(id).attrs["State"]["StartedAt"]) for id in ("patient", "hasty")}
        jobs = {id: await submitted(node, nap(3, id), id) for id in ids}
        await until(lambda: len(runner.steps) == 2)
        await aside(dockerd.kill)
        await is_down(runner, "patient")
        due = [await submitted(node, number, "patient") for number in range(5)]
        (failed,) = await finished(node, jobs["hasty"])
        assert error(failed).error.endswith("the Docker engine does not answer")
        await aside(dockerd.start)
        assert [value(job) for job in await finished(node, jobs["patient"], *due)] == ["patient", *range(5)]
        assert await result(node, 1, "hasty") == 1
        await says_nothing_of_the_engine(runner)
        assert {id: (bed.one(id).id, bed.one(id).attrs["State"]["StartedAt"]) for id in ids} == ids


async def test_an_engine_restarted_while_nothing_is_to_do_is_noticed(bed: Bed, dockerd: Dockerd) -> None:
    async with bed.running() as (node, runner):
        first = bed.one().id
        await aside(dockerd.stop)
        await is_down(runner)
        await aside(dockerd.start)
        await is_up(runner)
        await says_nothing_of_the_engine(runner)
        assert await result(node, 1) == 1
        assert bed.one().id != first


async def test_many_jobs_survive_an_engine_that_is_restarted_under_them(bed: Bed, dockerd: Dockerd) -> None:
    async with bed.running(bed.container(retry=AGAIN), concurrency=8) as (node, runner):
        jobs = [await submitted(node, nap(0.2, number)) for number in range(60)]
        for drill in (dockerd.kill, dockerd.stop):
            begun = len(runner.steps)
            await until(lambda begun=begun: len(runner.steps) >= begun + 8)
            await aside(drill)
            await aside(dockerd.start)
        assert [value(job) for job in await finished(node, *jobs)] == list(range(60))


# -- away, and frozen -----------------------------------------------------------------------------


async def test_without_the_engines_socket_jobs_go_on(bed: Bed, dockerd: Dockerd, impatient: None) -> None:
    async with bed.running() as (node, runner):
        first = bed.one().id
        long = await submitted(node, nap(3, "long"))
        await until(lambda: runner.steps)
        with dockerd.without_socket():
            doubt(runner)
            await says_that_the_engine_is_gone(runner)
            assert "there is no such socket" in runner.nodekit_problems()[0]
            assert [await result(node, number) for number in range(20)] == list(range(20))
            assert value((await finished(node, long))[0]) == "long"
            assert (await node.health()).healthy
        await says_nothing_of_the_engine(runner)
        assert await result(node, 1) == 1
        assert bed.one().id == first


def doubt(runner: DockerRunner) -> None:
    """Mark the engine as gone, as if it had not answered: open connections do not notice a missing socket."""
    assert runner._presence
    runner._presence.is_gone("told by the test")


async def test_with_a_frozen_engine_jobs_go_on_and_a_death_is_noticed_afterwards(
    bed: Bed, dockerd: Dockerd, impatient: None
) -> None:
    async with bed.running(bed.container("one"), bed.container("other")) as (node, runner):
        ids = [bed.one(id).id for id in ("one", "other")]
        long = await submitted(node, nap(1, "long"))
        await until(lambda: runner.steps)
        with dockerd.frozen():
            await says_that_the_engine_is_gone(runner)
            assert "did not answer within" in runner.nodekit_problems()[0]
            health = await node.health()
            assert health.healthy
            assert any(reason.startswith(GONE) for reason in health.reasons)
            assert [await result(node, number) for number in range(20)] == list(range(20))
            assert value((await finished(node, long))[0]) == "long"
            died = await outcome(node, {"do": "die"}, "other")
            assert error(died).kind == "connection"
            assert error(died).error.endswith("the Docker engine does not answer")
            await is_down(runner, "other")
            waiting = await submitted(node, 5, "other")
        assert value((await finished(node, waiting))[0]) == 5
        await says_nothing_of_the_engine(runner)
        assert bed.one("one").id == ids[0]
        assert bed.one("other").id != ids[1]


@pytest.mark.parametrize("drill", ["frozen", "without_socket", "kill"])
async def test_leaving_is_bounded_whatever_the_engine_does_and_what_is_left_is_found_again(
    bed: Bed, dockerd: Dockerd, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, drill: str
) -> None:
    monkeypatch.setattr("nodekit_docker.runner.ENGINE_SECONDS", 1.0)
    old, kept = bed.container("old"), bed.container("kept")
    up, leave, left = anyio.Event(), anyio.Event(), anyio.Event()

    async def run() -> None:
        async with bed.running(old, kept):
            up.set()
            await leave.wait()
        left.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await up.wait()
        first = bed.one("kept").id
        with engine_in_trouble(dockerd, drill):
            leave.set()
            with anyio.fail_after(2 + 1 + 10):  # stop_seconds, ENGINE_SECONDS, and what a busy machine takes
                await left.wait()
    assert f"containers of {bed.node} are left on the engine, for its next start" in caplog.text
    assert len(bed.made()) == 2
    async with bed.running(kept) as (node, _):
        assert await result(node, 1, "kept") == 1
        (one,) = bed.made()
        assert (one.id == first) == (drill != "kill")


@contextmanager
def engine_in_trouble(dockerd: Dockerd, drill: str) -> Iterator[None]:
    with ExitStack() as stack:
        if drill == "kill":
            dockerd.kill()
            stack.callback(dockerd.start)
        else:
            stack.enter_context(getattr(dockerd, drill)())
        yield


async def test_a_frozen_engine_holds_up_neither_a_start_nor_its_end(
    bed: Bed, dockerd: Dockerd, impatient: None
) -> None:
    with dockerd.frozen(), anyio.fail_after(PATIENCE_SECONDS):
        with pytest.raises(EngineGone, match=r"did not answer within 0\.5 s"):
            async with bed.runner():
                pass


@pytest.mark.parametrize(
    ("back", "said"),
    [
        (False, "did not start: the Docker engine .* does not answer"),
        (True, "did not start: it .* before it answered; the Docker engine was gone meanwhile"),
    ],
)
async def test_an_engine_that_goes_while_a_node_starts_ends_the_start_and_is_named(
    bed: Bed, dockerd: Dockerd, monkeypatch: pytest.MonkeyPatch, back: bool, said: str
) -> None:
    monkeypatch.setattr("nodekit_docker.runner.ENGINE_SECONDS", 1.0)
    slow = {"env": {"START_SECONDS": "600"}, "startup_seconds": 600 if back else 5}
    runner = bed.runner(bed.container("one", **slow), bed.container("two", **slow))

    async def enter() -> None:
        with pytest.raises(NotStarted, match=said):
            async with runner:
                pass

    with anyio.fail_after(PATIENCE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(enter)
            await until(lambda: [kept.id != "" for kept in runner._kept.values()] == [True] * 2)
            await aside(dockerd.kill)
            if back:
                await aside(dockerd.start)
    await aside(dockerd.start)
    async with bed.running() as (node, _):  # removes the containers that were left
        assert await result(node, 1) == 1
        assert len(bed.made()) == 1


# -- not there at all -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("unix:///nowhere/docker.sock", r"docker\.sock does not answer: there is no such socket; is the engine run"),
        ("tcp://127.0.0.1:1", r"127\.0\.0\.1:1 does not answer: connection refused"),
    ],
)
async def test_a_node_without_an_engine_says_what_to_do(host: str, said: str) -> None:
    with pytest.raises(EngineGone, match=said):
        async with DockerRunner(DockerContainer(id="one", image="one"), host=host):
            pass


async def test_a_node_whose_user_may_not_use_the_engine_says_so(bed: Bed, dockerd: Dockerd) -> None:
    runner = bed.runner()
    with somebody_else():
        with pytest.raises(EngineGone, match=r"permission denied; this user may not use it .*the group `docker` may"):
            async with runner:
                pass


@contextmanager
def somebody_else() -> Iterator[None]:
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


# -- how often it is asked ------------------------------------------------------------------------


@pytest.mark.parametrize("drill", ["kill", "frozen", "without_socket"])
async def test_an_engine_that_is_gone_is_not_asked_without_pause(
    bed: Bed, dockerd: Dockerd, impatient: None, monkeypatch: pytest.MonkeyPatch, drill: str
) -> None:
    asked: Counter[str] = Counter()

    def counted(name: str) -> None:
        original = getattr(Engine, name)

        async def count(self: Engine, *arguments: Any) -> Any:
            asked[name] += 1
            return await original(self, *arguments)

        monkeypatch.setattr(Engine, name, count)

    for name in ("ping", "inspect", "image", "containers", "create", "last_lines"):
        counted(name)
    ids = ["one", "two"]
    async with bed.running(*(bed.container(id) for id in ids)) as (_, runner):
        with engine_in_trouble(dockerd, drill):
            doubt(runner)
            await says_that_the_engine_is_gone(runner)
            asked.clear()
            with anyio.move_on_after(3):  # how long it is watched
                await anyio.sleep_forever()
            assert 1 <= asked["ping"] <= 12
            assert asked.total() - asked["ping"] <= 3 * len(ids), asked
        await is_up(runner, *ids)
        await says_nothing_of_the_engine(runner)


async def test_where_nothing_is_required_a_node_starts_without_an_engine_and_goes_on_once_there_is_one(
    bed: Bed, dockerd: Dockerd
) -> None:
    await aside(dockerd.stop)
    async with bed.running(bed.container(required=False)) as (node, runner):
        await says_that_the_engine_is_gone(runner)
        health = await node.health()
        assert not health.healthy
        assert any(GONE in reason for reason in health.reasons)
        job = await submitted(node, 5)
        await aside(dockerd.start)
        (job,) = await finished(node, job)
        assert value(job) == 5
        assert not [*runner.nodekit_problems(), *runner.problems()]


async def test_where_nothing_is_required_a_node_that_never_finds_an_engine_ends_at_once(
    bed: Bed, dockerd: Dockerd
) -> None:
    await aside(dockerd.stop)
    with anyio.fail_after(PATIENCE_SECONDS):
        async with bed.runner(bed.container(required=False)) as runner:
            await says_that_the_engine_is_gone(runner)
            assert list(runner.running()) == []
    await aside(dockerd.start)
