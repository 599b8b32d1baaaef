"""Time limits: of a call, of a job, in the queue; each with its own error, on a clock that the tests move."""

from typing import Any

import anyio
import pytest
from components import Gate, SwitchRunner, Told, functions, make_node, request, until
from msgspec.structs import replace

from nodekit import (
    Container,
    ContainerError,
    EmbeddedStore,
    Job,
    JobAccepted,
    JobFinished,
    JobStatus,
    Node,
    Sequence,
    Step,
)
from nodekit.execution.run import Run
from nodekit.testing import VirtualClock, make_job
from nodekit_memory import MemoryTable

pytestmark = pytest.mark.anyio

DAY = 86_400.0


async def error_of(node: Node, job: Job) -> ContainerError:
    """Return the error that the job failed with."""
    with anyio.fail_after(60):
        [job] = await node.wait([job.id])
    assert job.status is JobStatus.FAILED
    assert isinstance(job.result, ContainerError)
    return job.result


# -- one call -----------------------------------------------------------------------------------------


async def test_a_call_that_takes_too_long_is_cancelled_and_fails_its_job(clock: VirtualClock) -> None:
    gate = Gate()
    runner = functions({"gate": {"timeout_seconds": 30}}, gate=gate)
    async with make_node(runner, job_timeout_seconds=60) as node:
        job = await node.submit(request("gate"))
        await until(lambda: gate.running)
        await clock.advance(29)
        assert gate.running
        await clock.advance(2)
        error = await error_of(node, job)
        assert (error.kind, error.error, error.container) == ("timeout", "no reply within 30 s", "gate")
        assert (gate.running, gate.cancelled) == (0, 1)
        [job] = await node.fetch([job.id])
        assert job.steps[0].attempts[0].kind == "timeout"
        assert job.steps[0].attempts[0].finished_at - job.steps[0].attempts[0].started_at >= 30


# -- a job --------------------------------------------------------------------------------------------


async def test_a_job_whose_time_is_over_is_cancelled_in_mid_step_and_keeps_what_it_has(clock: VirtualClock) -> None:
    gate = Gate()
    async with make_node(functions(gate=gate), job_timeout_seconds=60) as node:
        job = await node.submit(request("echo", "gate", "echo"))
        await until(lambda: gate.running)
        await clock.advance(59)
        assert gate.running
        await clock.advance(2)
        error = await error_of(node, job)
        assert (error.kind, error.error) == ("job_timeout", "the job was not finished within 60 s")
        assert (gate.running, gate.cancelled) == (0, 1)
        [job] = await node.fetch([job.id])
        assert [result.container for result in job.intermediate_results] == ["echo"]
        assert job.steps[1].attempts[0].kind == "job_timeout"


async def test_a_job_whose_time_is_over_in_the_queue_fails_without_being_run(clock: VirtualClock) -> None:
    gate = Gate()
    async with make_node(functions(gate=gate), concurrency=1, job_timeout_seconds=60) as node:
        first = await node.submit(request("gate"))
        await until(lambda: gate.running)
        await clock.advance(30)
        second = await node.submit(request("gate"))
        await clock.advance(31)
        assert (await error_of(node, first)).kind == "job_timeout"
        await until(lambda: gate.calls == 2)
        third = await node.submit(request("gate"))
        await clock.advance(30)
        assert (await error_of(node, second)).kind == "job_timeout"
        await until(lambda: gate.calls == 3)
        gate.opened.set()
        [job] = await node.wait([third.id])
        assert job.status is JobStatus.SUCCESS


async def test_after_a_jobs_time_a_pipeline_cannot_go_on(clock: VirtualClock) -> None:
    class GoesOn(Sequence):
        """A pipeline that treats an error as an output."""

        def next_step(self, job: Job) -> Step | None:
            step = super().next_step(replace(job, steps=()))
            return step if len(job.steps) < 5 else None

    gate = Gate()
    async with make_node(functions(gate=gate), job_timeout_seconds=60, pipelines={"on": GoesOn()}) as node:
        job = await node.submit(replace(request("gate"), pipeline="on"))
        await until(lambda: gate.running)
        await clock.advance(61)
        assert (await error_of(node, job)).kind == "job_timeout"
        assert gate.calls == 1


async def test_time_between_steps_counts(clock: VirtualClock) -> None:
    gate, second = Gate(), Gate()
    async with make_node(functions(gate=gate, second=second), job_timeout_seconds=60) as node:
        job = await node.submit(request("gate", "second"))
        await until(lambda: gate.running)
        await clock.advance(40)
        gate.opened.set()
        await until(lambda: second.running)
        await clock.advance(21)
        assert (await error_of(node, job)).kind == "job_timeout"


@pytest.mark.parametrize(("left", "calls"), [(1.0, 1), (0.001, 1), (0.0, 0), (-0.5, 0)])
async def test_a_step_begins_while_there_is_time_left_and_no_later(
    left: float, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings: list[float] = []  # of the time left; later readings say that much is left

    async def first(data: Any) -> Any:
        readings.append(left)
        return data

    second = Gate()
    second.opened.set()
    monkeypatch.setattr(Run, "seconds_left", property(lambda run: readings.pop() if readings else 60.0))
    async with make_node(functions(first=first, second=second), job_timeout_seconds=60) as node:
        [job] = await node.wait([(await node.submit(request("first", "second"))).id])
    assert second.calls == calls
    assert job.error is None if calls else job.error is not None and job.error.kind == "job_timeout"


# -- the queue ----------------------------------------------------------------------------------------


async def test_a_job_waits_so_long_for_a_container_that_is_down(clock: VirtualClock) -> None:
    runner, told = SwitchRunner(Container(id="x"), up=[]), Told()
    async with make_node(runner, queue_timeout_seconds=300, job_timeout_seconds=600, plugins=[told]) as node:
        job = await node.submit(request("x"))
        await clock.advance(299)
        assert [job.status for job in await node.fetch([job.id])] == [JobStatus.ACCEPTED]
        await clock.advance(2)
        error = await error_of(node, job)
        assert (error.kind, error.error) == ("queue_timeout", "waited in the queue for more than 300 s")
        assert error.container == "x"
        assert not runner.steps
        assert (await node.pending()).total == 0
        await until(told.ends)
    assert (told.kinds, told.ends()[0].id) == ([JobAccepted, JobFinished], job.id)


async def test_a_container_can_have_a_limit_of_its_own(clock: VirtualClock) -> None:
    runner = SwitchRunner(
        Container(id="quick", queue_timeout_seconds=5), Container(id="ever", queue_timeout_seconds=float("inf")), up=[]
    )
    async with make_node(runner, queue_timeout_seconds=300) as node:
        quick, ever = await node.submit(request("quick")), await node.submit(request("ever"))
        await clock.advance(6)
        assert (await error_of(node, quick)).kind == "queue_timeout"
        await clock.advance(1000 * DAY)
        runner.switch("ever")
        [job] = await node.wait([ever.id])
        assert job.status is JobStatus.SUCCESS


async def test_each_step_has_its_own_time_in_the_queue(clock: VirtualClock) -> None:
    runner = SwitchRunner(Container(id="x"), Container(id="y"), up=[])
    async with make_node(runner, queue_timeout_seconds=300) as node:
        job = await node.submit(request("x", "y"))
        await clock.advance(200)
        runner.switch("x")
        await until(lambda: len(runner.steps) == 1)
        runner.switch()
        await clock.advance(200)
        assert [job.status for job in await node.fetch([job.id])] == [JobStatus.RUNNING]
        runner.switch("y")
        [job] = await node.wait([job.id])
        assert job.status is JobStatus.SUCCESS


async def test_jobs_expire_while_every_slot_is_taken(clock: VirtualClock) -> None:
    gate = Gate()
    async with make_node(functions(gate=gate), concurrency=1, queue_timeout_seconds=30) as node:
        running = await node.submit(request("gate"))
        await until(lambda: gate.running)
        queued = [await node.submit(request("gate")) for _ in range(3)]
        await clock.advance(31)
        for job in queued:
            assert (await error_of(node, job)).kind == "queue_timeout"
        gate.opened.set()
        [job] = await node.wait([running.id])
        assert job.status is JobStatus.SUCCESS
        assert gate.calls == 1


async def test_a_job_for_a_container_that_is_no_longer_offered_does_not_wait_for_ever(clock: VirtualClock) -> None:
    table = MemoryTable()
    await table.add([job := replace(make_job("gone"), queue_timeout_seconds=300)])
    async with make_node(store=EmbeddedStore(table)) as node:
        await clock.advance(301)
        assert (await error_of(node, job)).kind == "queue_timeout"


async def test_a_thousand_jobs_expire_at_once(clock: VirtualClock) -> None:
    async with make_node(SwitchRunner(Container(id="x"), up=[]), queue_timeout_seconds=30) as node:
        jobs = [job for job in await node.submit_many([request("x")] * 1000) if isinstance(job, Job)]
        await clock.advance(31)
        with anyio.fail_after(60):
            ended = await node.wait([job.id for job in jobs])
        assert {job.status for job in ended} == {JobStatus.FAILED}
        assert (await node.pending()).total == 0


# -- restarts and clocks ------------------------------------------------------------------------------


async def test_time_in_which_no_node_runs_is_not_held_against_a_job(clock: VirtualClock) -> None:
    table, down = MemoryTable(), SwitchRunner(Container(id="x"), up=[])
    limits: dict[str, Any] = {"queue_timeout_seconds": 300, "job_timeout_seconds": 500}
    async with make_node(down, store=EmbeddedStore(table), **limits) as node:
        job = await node.submit(request("x"))
        await clock.advance(200)
    await clock.advance(3 * DAY)
    async with make_node(down, store=EmbeddedStore(table), **limits) as node:
        await clock.advance(200)
        assert [job.status for job in await node.fetch([job.id])] == [JobStatus.ACCEPTED]
        down.switch("x")
        [job] = await node.wait([job.id])
        assert job.status is JobStatus.SUCCESS


@pytest.mark.parametrize("jump", [-DAY, +DAY])
async def test_a_clock_that_jumps_disturbs_neither_limits_nor_order_nor_ids(clock: VirtualClock, jump: float) -> None:
    gate = Gate()
    runner = functions({"gate": {"timeout_seconds": 100}}, gate=gate)
    async with make_node(runner, concurrency=1, queue_timeout_seconds=300, job_timeout_seconds=900) as node:
        jobs = [await node.submit(request("gate", number=1))]
        await until(lambda: gate.running)
        clock.jump(jump)
        jobs += [await node.submit(request("gate", number=2)), await node.submit(request("gate", number=3))]
        clock.jump(jump)
        jobs += [await node.submit(request("gate", number=4))]
        await clock.advance(50)
        assert gate.calls == 1
        assert {job.status for job in await node.fetch([job.id for job in jobs])} == {JobStatus.ACCEPTED}
        gate.opened.set()
        with anyio.fail_after(60):
            ended = await node.wait([job.id for job in jobs])
        assert [job.status for job in ended] == [JobStatus.SUCCESS] * 4
        assert [job.id for job in jobs] == sorted({job.id for job in jobs})
        finished = [job.finished_at for job in ended]
        assert finished == sorted(filter(None, finished))


@pytest.mark.parametrize("jump", [-DAY, +DAY])
async def test_a_clock_that_jumps_while_the_node_is_down_disturbs_neither(clock: VirtualClock, jump: float) -> None:
    table, down = MemoryTable(), SwitchRunner(Container(id="x"), up=[])
    limits: dict[str, Any] = {"concurrency": 1, "queue_timeout_seconds": 300, "job_timeout_seconds": 900}
    async with make_node(down, store=EmbeddedStore(table), **limits) as node:
        before = [await node.submit(request("x")) for _ in range(3)]
    clock.jump(jump)
    async with make_node(down, store=EmbeddedStore(table), **limits) as node:
        after = await node.submit(request("x"))
        assert after.id > before[-1].id
        await clock.advance(250)
        down.switch("x")
        ended = await node.wait([job.id for job in (*before, after)])
        assert {job.status for job in ended} == {JobStatus.SUCCESS}
        assert [step.job_id for step in down.steps] == [job.id for job in (*before, after)]


# -- settings -----------------------------------------------------------------------------------------


async def test_no_limit_is_none_or_infinite(clock: VirtualClock) -> None:
    for none in (None, float("inf")):
        async with make_node(
            SwitchRunner(Container(id="x"), up=[]), queue_timeout_seconds=none, job_timeout_seconds=none
        ) as node:
            job = await node.submit(request("x"))
            await clock.advance(10_000 * DAY)
            assert [job.status for job in await node.fetch([job.id])] == [JobStatus.ACCEPTED]
