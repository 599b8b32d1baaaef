"""Jobs of pipelines that never end, name missing containers, or return a stream where none is allowed."""

from collections.abc import AsyncGenerator
from typing import Any

import anyio
import pytest
from components import Told, broken, functions, make_node, read, request, until
from msgspec.structs import replace

from nodekit import (
    CompositionError,
    ContainerError,
    Job,
    JobRequest,
    JobStatus,
    Location,
    Node,
    NotFailed,
    Outcome,
    RequestRefused,
    Sequence,
    Step,
    StreamBroken,
    last_output,
)
from nodekit.testing import make_step

pytestmark = pytest.mark.anyio


class Route(Sequence):
    """Calls these containers, whatever the request says; without any, it calls `echo` for ever."""

    def __init__(self, *route: str) -> None:
        self._route = route

    def next_step(self, job: Job) -> Step | None:
        route = self._route or ("echo",) * (len(job.results) + 1)
        return super().next_step(replace(job, request=replace(job.request, containers=route)))


def asked(*containers: str, pipeline: str = "route") -> JobRequest:
    return replace(request(*containers), pipeline=pipeline)


async def ended(node: Node, request: JobRequest) -> Job:
    job = await node.submit(request)
    with anyio.fail_after(60):
        [job] = await node.wait([job.id])
    return job


# -- for ever -----------------------------------------------------------------------------------------


async def test_a_job_of_many_steps_lets_others_have_their_turn() -> None:
    turns = 0

    async def beat() -> None:
        nonlocal turns
        while True:
            await anyio.sleep(0)
            turns += 1

    async with make_node() as node, anyio.create_task_group() as tasks:
        tasks.start_soon(beat)
        job = await ended(node, request(*["echo"] * 900))
        tasks.cancel_scope.cancel()
    assert job.status is JobStatus.SUCCESS
    assert turns >= 900


async def test_a_job_of_many_steps_can_be_cancelled_while_its_containers_await_nothing() -> None:
    async with make_node(pipelines={"route": Route()}, max_steps=1_000_000) as node:
        job = await node.submit(asked())
        with anyio.fail_after(60):
            while len((await node.fetch([job.id]))[0].results) < 10:
                await anyio.sleep(0)
            cancelled = await node.cancel(job.id)
    assert cancelled.status is JobStatus.CANCELLED


async def test_a_node_stops_in_the_middle_of_a_job_of_many_steps_and_every_result_is_kept() -> None:
    calls = 0

    async def count(data: Any) -> Any:
        nonlocal calls
        calls += 1
        return data

    async with make_node(functions(count=count), drain_seconds=0) as node:
        job = await node.submit(request(*["count"] * 900))
        with anyio.fail_after(60):
            await until(lambda: calls > 10)
    [job] = await node.fetch([job.id])
    assert not job.status.finished
    assert len(job.results) == calls


async def test_a_job_whose_pipeline_never_ends_is_ended_by_the_node() -> None:
    async with make_node(pipelines={"route": Route()}, max_steps=7) as node:
        job = await ended(node, asked())
    assert (job.status, len(job.steps)) == (JobStatus.FAILED, 7)
    assert job.error.error == "its pipeline did not end within 7 steps, the `max_steps` of this node"


# -- elsewhere ----------------------------------------------------------------------------------------

ELSEWHERE = "its pipeline chose 'secret', which the request does not name"


@pytest.mark.parametrize("route", [("secret",), ("echo", "secret")])
@pytest.mark.parametrize("how", ["submitted", "streamed", "retried"])
async def test_a_step_runs_only_in_a_container_that_the_request_names(route: tuple[str, ...], how: str) -> None:
    called: list[Any] = []

    async def secret(data: Any) -> Any:
        called.append(data)

    async with make_node(functions(secret=secret), pipelines={"route": Route(*route)}) as node:
        if how == "streamed":
            async with node.stream(asked("echo")) as stream:
                with pytest.raises(StreamBroken):
                    await read(stream)
            job = stream.job
        else:
            job = await ended(node, asked("echo"))
        if how == "retried":
            again = await node.retry(job.id, start="start")
            [job] = await node.wait([again.id])
    assert called == []
    assert job.status is JobStatus.FAILED
    assert (job.error.container, job.error.error) == ("secret", ELSEWHERE)


# -- streams ------------------------------------------------------------------------------------------


class Streams(Sequence):
    """A sequence in which these steps stream; an error is followed by another step, or by success."""

    def __init__(self, *numbers: int, goes_on: bool = False) -> None:
        self._numbers, self._goes_on = numbers, goes_on

    def next_step(self, job: Job) -> Step | None:
        index = len(job.results)
        if index == len(job.request.containers) or not (self._goes_on or last_output(job)):
            return None
        step = make_step(job.request.containers[index], index=index, attempt=job.attempt)
        where = Location.STREAM if index in self._numbers else Location.OFFCHAIN
        return replace(step, job_id=job.id, input=replace(step.input, destination=where, data=job.request.data))

    def outcome(self, job: Job) -> Outcome:
        return Outcome(JobStatus.SUCCESS) if self._goes_on else super().outcome(job)


TOLD = request(pieces=["a", "!"]).data


async def letters(data: Any) -> AsyncGenerator[str, None]:
    for piece in data.get("pieces", "ab"):
        if piece == "!":
            raise ValueError("on purpose")
        yield piece


async def test_a_stream_whose_pipeline_goes_on_after_it_is_broken() -> None:
    async with make_node(functions(letters=letters), pipelines={"route": Streams(0)}) as node:
        pieces, job = await broken(node, asked("letters", "echo"))
    assert pieces == [b"a", b"b"]
    assert (job.status, len(job.steps)) == (JobStatus.FAILED, 1)
    assert job.error.error == "its pipeline streamed a step that was not the last: 'echo' follows"
    assert job.error.container == "letters"


async def test_a_stream_that_broke_off_is_no_success_whatever_its_pipeline_makes_of_it() -> None:
    async with make_node(functions(letters=letters), pipelines={"route": Streams(0, goes_on=True)}) as node:
        for containers in (("letters",), ("letters", "echo")):
            pieces, job = await broken(node, replace(asked(*containers), data=TOLD))
            assert pieces == [b"a"]
            assert (job.status, len(job.steps)) == (JobStatus.FAILED, 1)
            assert "on purpose" in job.error.error


async def test_what_fails_before_its_first_piece_may_be_followed_by_another_step() -> None:
    async def fails(data: Any) -> Any:
        raise ValueError("at once")

    runner = functions(fails=fails, letters=letters)
    async with (
        make_node(runner, pipelines={"route": Streams(0, 1, goes_on=True)}) as node,
        node.stream(asked("fails", "letters")) as stream,
    ):
        assert await read(stream) == [b"a", b"b"]
    assert (stream.job.status, len(stream.job.steps)) == (JobStatus.SUCCESS, 2)


async def test_a_stream_of_which_no_step_streams_gives_its_last_output_in_one_piece() -> None:
    async with (
        make_node(pipelines={"route": Streams()}) as node,
        node.stream(replace(asked("echo", "echo"))) as stream,
    ):
        assert await read(stream) == [b"{}"]
        assert await read(stream) == []
        assert [job.without_earlier_outputs() for job in await node.fetch([stream.job.id])] == [stream.job]
    assert stream.job.status is JobStatus.SUCCESS


async def test_a_stream_of_nothing_stays_one() -> None:
    async def silent(data: Any) -> AsyncGenerator[str, None]:
        for _ in range(0):
            yield ""

    async with make_node(functions(silent=silent)) as node, node.stream(request("silent")) as stream:
        assert await read(stream) == []


# -- who has which name -------------------------------------------------------------------------------


def test_the_built_in_pipeline_cannot_be_replaced() -> None:
    with pytest.raises(CompositionError, match=r"pipelines\['sequence'\]: is built into every node; give yours"):
        make_node(pipelines={"sequence": Route()})


# -- another try --------------------------------------------------------------------------------------


class Judges(Sequence):
    """Judges each job a failure, until the test changes that."""

    strict = True

    def outcome(self, job: Job) -> Outcome:
        error = ContainerError(container=job.results[-1].container, error="not good enough")
        return Outcome(JobStatus.FAILED, error) if self.strict else super().outcome(job)


async def test_a_job_that_its_pipeline_ended_after_its_last_output_is_retried_from_the_start_only() -> None:
    told, judge = Told(), Judges()
    async with make_node(pipelines={"route": judge}, plugins=[told]) as node:
        job = await ended(node, asked("echo"))
        with pytest.raises(NotFailed, match=r"failed by its pipeline after its last output.*retry it from the start"):
            await node.retry(job.id)
        assert isinstance(told.events[-1], RequestRefused)
        assert (await node.pending()).total == 0
        again = await node.retry(job.id, start="start")
        [again] = await node.wait([again.id])
        assert (again.status, len(again.steps)) == (JobStatus.FAILED, 1)
        judge.strict = False
        mended = await node.retry(job.id)  # its pipeline says otherwise by now
        assert (mended.status, mended.steps) == (JobStatus.SUCCESS, job.steps)
