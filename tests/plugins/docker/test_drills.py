"""Faults of containers: the jobs in them end as described, and none is lost."""

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from components import until
from docker.models.containers import Container
from docker_runs import (
    PATIENCE_SECONDS,
    Bed,
    aside,
    error,
    finished,
    is_down,
    is_up,
    kill_program,
    outcome,
    result,
    submitted,
    value,
)

from nodekit import Job, NotStarted, Retry
from nodekit_docker import DockerRunner
from nodekit_docker.engine.engine import Engine

pytestmark = pytest.mark.anyio

AGAIN = Retry(attempts=3, first_delay_seconds=0.1)
FOREVER = {"do": "sleep", "seconds": 600}


async def kill_by_engine(container: Container) -> None:
    await aside(container.kill)


async def remove(container: Container) -> None:
    await aside(lambda: container.remove(force=True))


async def stop(container: Container) -> None:
    await aside(lambda: container.stop(timeout=5))


Drill = Callable[[Container], Awaitable[None]]


# -- a container ends under a step ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("drill", "ending"),
    [
        (kill_program, "was killed by SIGKILL"),
        (kill_by_engine, "was killed by SIGKILL"),
        (remove, "(was killed by SIGKILL|was removed)"),  # what the engine says when it is asked
        (stop, "exited with code 0"),
    ],
)
async def test_a_step_whose_container_is_ended_says_so_and_it_comes_back(bed: Bed, drill: Drill, ending: str) -> None:
    async with bed.running() as (node, runner):
        job = await submitted(node, FOREVER)
        await until(lambda: runner.steps)
        first = await aside(bed.one)
        await drill(first)
        (job,) = await finished(node, job)
        assert error(job).kind == "died"
        assert re.match(f"the container {ending}", error(job).error)
        assert await result(node, 5) == 5
        assert not runner.problems()
        second = await aside(bed.one)
        assert second.id != first.id
        assert second.labels["nodekit.restarts"] == "1"


async def test_steps_that_hit_a_killed_container_are_run_again_and_none_is_lost(bed: Bed) -> None:
    async with bed.running(bed.container(retry=AGAIN), concurrency=8) as (node, runner):
        jobs: list[Job] = []

        async def submit_until_it_is_down() -> None:
            while "one" in runner.running() and len(jobs) < 1000:
                jobs.append(await submitted(node, {"do": "sleep", "seconds": 0.3, "then": len(jobs)}))
                await anyio.sleep(0.02)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(submit_until_it_is_down)
            await until(lambda: len(runner.steps) >= 8)
            await kill_program(await aside(bed.one))
        ended = await finished(node, *jobs)
    assert [value(job) for job in ended] == list(range(len(jobs)))
    again = [kinds for job in ended if len(kinds := [attempt.kind for attempt in job.steps[0].attempts]) > 1]
    assert 1 <= len(again) <= 8
    assert all(kinds == ["died", None] for kinds in again)
    assert len(runner.steps) == len(jobs) + len(again)


@pytest.mark.parametrize("shown", [False, True])
@pytest.mark.parametrize(
    ("data", "ending"),
    [
        ({"do": "exit", "code": 0, "lines": ["that was it"]}, r"exited with code 0; .* \| listening \| that was it"),
        ({"do": "exit", "code": 3}, r"exited with code 3; it printed last: starting \| listening"),
    ],
)
async def test_a_program_that_ends_by_itself_is_told_with_its_code_and_started_again(
    bed: Bed, data: Any, ending: str, shown: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Clients see what it printed last only if the operator lets them; the log has it."""
    async with bed.running(bed.container(output_in_errors=shown)) as (node, _):
        failure = error(await outcome(node, data))
        assert failure.kind == "died"
        assert re.fullmatch(f"the container {ending if shown else ending.partition(';')[0]}", failure.error)
        await until(lambda: "listening" in caplog.messages)
        assert await result(node, 5) == 5


async def test_one_that_is_out_of_memory_says_so_and_which_setting_raises_it(bed: Bed) -> None:
    async with bed.running(bed.container(memory="32MiB")) as (node, _):
        failure = error(await outcome(node, {"do": "eat"}))
        text = "ran out of memory and was killed (its limit is 32MiB; `memory` raises it)"
        assert failure.error.startswith(f"the container {text}")
        assert failure.kind == "died"
        assert await result(node, 5) == 5


async def test_one_that_dies_idle_is_shown_as_down_and_its_jobs_wait(bed: Bed) -> None:
    async with bed.running() as (node, runner):
        await kill_program(await aside(bed.one))
        await is_down(runner)
        (problem,) = runner.problems()
        assert problem.startswith("container 'one' is down: was killed by SIGKILL")
        assert problem in (await node.health()).reasons
        assert await result(node, 5) == 5
        assert (await node.health()).reasons == ()


# -- what people do to containers -----------------------------------------------------------------


async def test_jobs_wait_while_it_is_paused_and_a_call_in_flight_times_out(bed: Bed) -> None:
    async with bed.running(bed.container(timeout_seconds=2)) as (node, runner):
        in_flight = await submitted(node, FOREVER)
        await until(lambda: runner.steps)
        container = await aside(bed.one)
        await aside(container.pause)
        await is_down(runner)
        assert runner.problems() == [
            f"container 'one' is down: is paused; `docker unpause {container.name}` lets it go on"
        ]
        waiting = await submitted(node, 5)
        (in_flight,) = await finished(node, in_flight)
        assert (error(in_flight).kind, error(in_flight).error) == ("timeout", "no reply within 2 s")
        (waits,) = await node.fetch([waiting.id])
        assert not waits.status.finished
        assert len(runner.steps) == 1

        await aside(container.unpause)
        (waiting,) = await finished(node, waiting)
        assert value(waiting) == 5
        assert (await aside(bed.one)).id == container.id


async def test_a_call_in_flight_goes_on_where_it_is_unpaused_in_time(bed: Bed) -> None:
    async with bed.running() as (node, runner):
        in_flight = await submitted(node, {"do": "sleep", "seconds": 0.5, "then": 7})
        await until(lambda: runner.steps)
        container = await aside(bed.one)
        await aside(container.pause)
        await is_down(runner)
        await aside(container.unpause)
        (in_flight,) = await finished(node, in_flight)
        assert value(in_flight) == 7
        await is_up(runner)


async def test_one_that_is_restarted_before_anybody_looks_is_called_at_its_new_port(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspect, restarted = Engine.inspect, anyio.Event()

    async def inspected(engine: Engine, id: str) -> Any:
        await restarted.wait()
        return await inspect(engine, id)

    async with bed.running() as (node, runner):
        container = await aside(bed.one)
        job = await submitted(node, FOREVER)
        await until(lambda: runner.steps)
        monkeypatch.setattr(Engine, "inspect", inspected)
        await aside(lambda: container.restart(timeout=5))
        restarted.set()
        (job,) = await finished(node, job)
        assert error(job).error == "the container was started again by somebody"
        assert await result(node, 5) == 5
        (same,) = await aside(bed.made)
        assert same.id == container.id
        assert same.ports != container.ports


# -- starting -------------------------------------------------------------------------------------


async def test_one_that_is_slow_and_not_required_keeps_its_jobs_waiting_and_not_the_node(bed: Bed) -> None:
    slow = bed.container("slow", env={"START_SECONDS": "4"}, required=False)
    async with bed.running(bed.container(), slow) as (node, runner):
        assert runner.running() == ["one"]
        waiting = await submitted(node, 5, "slow")
        assert await result(node, 6) == 6
        assert not (await node.fetch([waiting.id]))[0].status.finished
        (waiting,) = await finished(node, waiting)
        assert value(waiting) == 5


async def not_started(runner: DockerRunner) -> NotStarted:
    with pytest.raises(NotStarted) as raised, anyio.fail_after(PATIENCE_SECONDS):
        async with runner:
            pass
    return raised.value


async def test_one_that_never_answers_is_told_with_what_it_printed(bed: Bed) -> None:
    never = bed.container("never", env={"START_SECONDS": "600"}, startup_seconds=1.5)
    refused = await not_started(bed.runner(bed.container(), never))
    assert refused.container == "never"
    assert refused.last_lines == ("starting",)
    assert re.search(r"did not answer at http://127.0.0.1:\d+ within 1.5 s; .* listen on 0.0.0.0:3000", refused.reason)
    assert bed.made() == []


@pytest.mark.parametrize(
    ("settings", "exit_code", "printed"),
    [
        ({"env": {"CRASH": "7"}}, 7, "crashing as told, with 7"),
        ({"command": ("/nope",)}, 127, "exec /nope failed: No such file or directory"),
    ],
)
async def test_one_that_crashes_at_its_start_is_told_with_its_code_and_what_it_printed(
    bed: Bed, settings: Any, exit_code: int, printed: str
) -> None:
    image = bed.engine.images.python if "command" in settings else bed.engine.images.service
    refused = await not_started(bed.runner(bed.container(), bed.container("bad", image=image, **settings)))
    assert (refused.container, refused.exit_code) == ("bad", exit_code)
    assert printed in refused.last_lines[-1]
    assert refused.reason == f"it exited with code {exit_code} before it answered"


async def test_one_that_ends_before_its_events_are_heard_is_noticed(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str | None] = []
    look, inspect = DockerRunner._look, Engine.inspect

    def looked(runner: DockerRunner, id: str | None) -> None:
        told.append(id)
        look(runner, id)

    async def inspected(engine: Engine, id: str) -> Any:
        """Return the engine's report of a running container only after that container has ended."""
        answer = await inspect(engine, id)
        if answer and answer["State"]["Running"] and bed.made():
            bed.one().kill()
            await until(lambda: told.count(id) == 2)
        return answer

    monkeypatch.setattr(DockerRunner, "_look", looked)
    monkeypatch.setattr(Engine, "inspect", inspected)
    refused = await not_started(bed.runner(bed.container(env={"START_SECONDS": "600"}, startup_seconds=10)))
    assert refused.reason == "it was killed by SIGKILL before it answered"


async def test_one_that_crashes_and_is_not_required_is_tried_with_growing_pauses_until_it_comes_up(
    bed: Bed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    kept.chmod(0o1777)
    crashes = {"CRASH": "7", "CRASH_TIMES": "3"}
    moody = bed.container("moody", env=crashes, required=False, volumes=(f"{kept}:/tmp",))
    async with bed.running(bed.container(), moody) as (node, runner):
        waiting = await submitted(node, 5, "moody")
        assert await result(node, 6) == 6
        await until(lambda: any("restart in" in problem for problem in runner.problems()))
        (problem,) = runner.problems()
        assert problem.startswith("container 'moody' is down: it exited with code 7 before it answered; restart in ")
        assert (await node.health()).healthy
        (waiting,) = await finished(node, waiting)
        assert value(waiting) == 5
        assert not runner.problems()
    pauses = [float(pause) for pause in re.findall(r"container 'moody': .*; restart in (\S+) s", caplog.text)]
    assert pauses == [0.5, 1, 2]
    printed = [record.message for record in caplog.records if record.name == "nodekit.container.moody"]
    assert printed == 3 * ["starting", "crashing as told, with 7"]


async def test_an_image_that_is_missing_does_not_stop_a_node_that_does_not_require_it(bed: Bed) -> None:
    late = bed.container("late", image="nodekit-test/late:1", required=False)
    async with bed.running(bed.container(), late) as (node, runner):
        waiting = await submitted(node, 5, "late")
        await until(lambda: any("is not on this machine" in problem for problem in runner.problems()))
        assert await result(node, 6) == 6
        image = bed.engine.client.images.get(bed.engine.images.service)
        assert image.tag("nodekit-test/late:1")
        try:
            (waiting,) = await finished(node, waiting)
            assert value(waiting) == 5
        finally:
            bed.engine.client.images.remove("nodekit-test/late:1")


async def test_one_that_has_ended_is_down_before_its_last_lines_are_had(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(engine: Engine, id: str, count: int) -> tuple[str, ...]:
        await anyio.sleep_forever()
        return ()

    async with bed.running() as (node, runner):
        monkeypatch.setattr(Engine, "last_lines", slow)
        job = await submitted(node, FOREVER)
        await until(lambda: runner.steps)
        await aside((await aside(bed.one)).kill)
        await is_down(runner)
        (job,) = await finished(node, job)
        assert (error(job).kind, error(job).error) == ("died", "the container was killed by SIGKILL")
        await is_up(runner)
