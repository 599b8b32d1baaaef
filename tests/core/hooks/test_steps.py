"""`nodekit_step`: plugins around each attempt of a step."""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import msgspec
import pytest
from components import Gate, SwitchRunner, Told, functions, make_node, request, until
from msgspec.structs import replace

from nodekit import (
    Container,
    ContainerFailed,
    ContainerOutput,
    Job,
    JobFinished,
    JobStatus,
    Node,
    NodekitError,
    Retry,
    Step,
    StepCall,
    StepFinished,
    StepStarted,
    decode_payload,
    encode_payload,
)
from nodekit.hooks import manager
from nodekit.interfaces import step_call

pytestmark = pytest.mark.anyio


class Around:
    """A plugin that runs steps by a function of the step and the call."""

    def __init__(self, run: Callable[[Step, StepCall], Awaitable[Any]]) -> None:
        self._run = run

    async def nodekit_step(self, step: Step, job: Job, call: StepCall) -> ContainerOutput:
        assert step.job_id == job.id
        output: ContainerOutput = await self._run(step, call)
        return output


def answer(step: Step, value: Any) -> ContainerOutput:
    return ContainerOutput(container=step.container, output=encode_payload(value), instance="plugin")


async def ended(node: Node, *containers: str, **data: Any) -> Job:
    with anyio.fail_after(30):
        [job] = await node.wait([(await node.submit(request(*containers, **data))).id])
    return job


async def run_with(run: Callable[[Step, StepCall], Awaitable[Any]], *runners: Any, **data: Any) -> Job:
    async with make_node(*runners, plugins=[Around(run)]) as node:
        return await ended(node, *runners[0].containers, **data)


async def test_plugins_nest_in_their_order_and_each_sees_the_output_of_the_next() -> None:
    seen: list[str] = []

    def named(name: str) -> Around:
        async def run(step: Step, call: StepCall) -> ContainerOutput:
            seen.append(f"{name} before")
            output = await call(replace(step, headers={**step.headers, name: "1"}))
            seen.append(f"{name} after {decode_payload(output.output)}")
            return replace(output, output=encode_payload(f"{name}({decode_payload(output.output)})"))

        return Around(run)

    runner = SwitchRunner(Container(id="x"))
    async with make_node(runner, plugins=[named("outer"), named("inner")]) as node:
        job = await ended(node, "x")
    assert seen == ["outer before", "inner before", "inner after x", "outer after inner(x)"]
    assert decode_payload(job.steps[0].result.output) == "outer(inner(x))"  # type: ignore[union-attr]
    assert [dict(step.headers) for step in runner.steps] == [{"outer": "1", "inner": "1"}]
    assert job.steps[0].attempts[0].instance == "switch"


async def test_a_plugin_may_answer_without_a_call() -> None:
    runner = SwitchRunner(Container(id="x"))

    async def run(step: Step, call: StepCall) -> ContainerOutput:
        return answer(step, "remembered")

    job = await run_with(run, runner)
    assert (job.status, runner.steps) == (JobStatus.SUCCESS, [])
    assert job.results == [ContainerOutput(container="x", output=encode_payload("remembered"), instance="plugin")]


async def test_each_attempt_runs_through_the_plugins_and_a_failure_of_theirs_is_retried_like_a_containers() -> None:
    attempts: list[int] = []

    async def run(step: Step, call: StepCall) -> ContainerOutput:
        attempts.append(step.attempt)
        if step.attempt == 1:
            raise ContainerFailed("connection", "not yet")
        return await call(step)

    runner = SwitchRunner(Container(id="x", retry=Retry(attempts=3, first_delay_seconds=0)))
    job = await run_with(run, runner)
    assert (job.status, attempts, len(runner.steps)) == (JobStatus.SUCCESS, [1, 2], 1)
    assert [attempt.failure for attempt in job.steps[0].attempts] == ["not yet", None]


async def test_a_plugin_may_answer_for_a_container_that_fails() -> None:
    async def run(step: Step, call: StepCall) -> ContainerOutput:
        with pytest.raises(ContainerFailed, match="not running"):
            await call(step)
        return answer(step, "instead")

    runner = SwitchRunner(Container(id="x", when_down="fail"), up=())
    job = await run_with(run, runner)
    assert [decode_payload(one.output) for one in job.results] == ["instead"]  # type: ignore[union-attr]


def _raise(error: BaseException) -> Callable[[Step, StepCall], Awaitable[Any]]:
    async def run(step: Step, call: StepCall) -> Any:
        raise error

    return run


def _answers(value: Any) -> Callable[[Step, StepCall], Awaitable[Any]]:
    async def run(step: Step, call: StepCall) -> Any:
        return value

    return run


def _calls_with(change: Callable[[Step], Step]) -> Callable[[Step, StepCall], Awaitable[Any]]:
    async def run(step: Step, call: StepCall) -> Any:
        return await call(change(step))

    return run


async def _calls_twice(step: Step, call: StepCall) -> Any:
    await call(step)
    return await call(step)


def _with(**headers: str) -> Callable[[Step, StepCall], Awaitable[Any]]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return _calls_with(lambda step: replace(step, headers=named))


@pytest.mark.parametrize(
    ("run", "logged", "calls"),
    [
        pytest.param(_raise(ValueError("its own fault")), "its own fault", 0, id="raises"),
        pytest.param(_answers(None), "it answered None; expected a ContainerOutput of 'x'", 0, id="answers nothing"),
        pytest.param(
            _answers(ContainerOutput(container="y", output=encode_payload(1))),
            "expected a ContainerOutput of 'x'",
            0,
            id="answers for another",
        ),
        pytest.param(
            _answers(ContainerOutput(container="x", output=msgspec.Raw(b"{"))),
            "InvalidPayload: not JSON",
            0,
            id="answers no JSON",
        ),
        pytest.param(_calls_twice, "a container is called once in an attempt", 1, id="calls twice"),
        pytest.param(
            _calls_with(lambda step: replace(step, container="y")),
            "only its headers may be others",
            0,
            id="changes the step",
        ),
        pytest.param(_with(x="a\r\nb: c"), "x: 'a\\r\\nb: c' is no value of a header", 0, id="a value with lines"),
        pytest.param(_calls_with(lambda step: replace(step, headers={"a b": "1"})), "'a b' is no name", 0, id="a name"),
        pytest.param(_with(Content_Length="1"), "Content-Length: the container protocol sets", 0, id="length"),
        pytest.param(_with(Authorization="me"), "Authorization: the container protocol sets", 0, id="authorization"),
        pytest.param(_with(idempotency_key="k"), "idempotency-key: the container protocol sets", 0, id="key"),
    ],
)
async def test_a_plugin_that_breaks_its_promise_fails_the_step_and_the_log_names_it(
    run: Callable[[Step, StepCall], Awaitable[Any]], logged: str, calls: int, caplog: pytest.LogCaptureFixture
) -> None:
    runner = SwitchRunner(Container(id="x"))
    job = await run_with(run, runner)
    assert job.error is not None
    assert (job.status, job.error.kind, job.error.error) == (JobStatus.FAILED, "internal", "internal error of the node")
    assert len(runner.steps) == calls
    assert f"job {job.id}: plugin 0:Around failed in nodekit_step" in caplog.text
    assert logged in caplog.text


async def test_the_error_of_a_plugin_inside_is_a_failure_to_the_one_outside() -> None:
    caught: list[str] = []

    async def outer(step: Step, call: StepCall) -> ContainerOutput:
        try:
            return await call(step)
        except ContainerFailed as failure:
            caught.append(failure.kind)
            return answer(step, "saved")

    plugins = [Around(outer), Around(_raise(KeyError("x")))]
    async with make_node(SwitchRunner(Container(id="x")), plugins=plugins) as node:
        assert (await ended(node, "x")).status is JobStatus.SUCCESS
    assert caught == ["internal"]


async def test_the_time_of_plugins_counts_in_that_of_the_container() -> None:
    async def run(step: Step, call: StepCall) -> ContainerOutput:
        output = await call(step)
        await anyio.sleep_forever()
        return output

    job = await run_with(run, SwitchRunner(Container(id="x", timeout_seconds=0.05)))
    assert job.error is not None
    assert (job.error.kind, job.error.error) == ("timeout", "no reply within 0.05 s")


async def test_a_cancelled_job_cancels_the_plugin_and_its_call() -> None:
    gate, ends = Gate(), []

    async def run(step: Step, call: StepCall) -> ContainerOutput:
        try:
            return await call(step)
        except anyio.get_cancelled_exc_class():
            ends.append("cancelled")
            raise

    async with make_node(functions(gate=gate), plugins=[Around(run)]) as node:
        job = await node.submit(request("gate"))
        await until(lambda: gate.running)
        await node.cancel(job.id)
        await until(lambda: ends)
    assert (ends, gate.cancelled) == (["cancelled"], 1)


# -- streams ----------------------------------------------------------------------------------


async def letters(data: Any) -> AsyncIterator[str]:
    for letter in data["letters"]:
        yield letter


async def stream_with(*plugins: Any, runner: Any = None) -> tuple[list[bytes], Job]:
    async with (
        make_node(runner or functions(letters=letters), plugins=plugins) as node,
        node.stream(request("letters", letters="abc")) as stream,
    ):
        with anyio.fail_after(30):
            return [piece async for piece in stream], stream.job


def changing(change: Callable[[bytes], list[bytes]], outputs: list[Any]) -> Around:
    async def changed(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for piece in pieces:
            for one in change(piece):
                yield one

    async def run(step: Step, call: StepCall) -> ContainerOutput:
        output = await call(step, pieces=changed)
        outputs.append(decode_payload(output.output))
        return output

    return Around(run)


async def test_plugins_change_the_pieces_of_a_stream_the_innermost_first() -> None:
    outputs: list[Any] = []
    upper = changing(lambda piece: [piece.upper()], outputs)
    without_b = changing(lambda piece: [] if piece == b"b" else [piece, b"-"], outputs)
    pieces, job = await stream_with(upper, without_b)
    assert (pieces, job.status) == ([b"A", b"-", b"C", b"-"], JobStatus.SUCCESS)
    assert outputs == [{"output": "A-C-"}] * 2
    assert decode_payload(job.result.output) == {"output": "A-C-"}  # type: ignore[union-attr]


async def test_pieces_of_a_runner_without_streams_are_changed_too() -> None:
    upper = changing(lambda piece: [piece.upper()], [])
    pieces, _ = await stream_with(upper, runner=SwitchRunner(Container(id="letters")))
    assert pieces == [b'"LETTERS"']


async def test_an_answer_without_a_call_is_streamed_in_one_piece() -> None:
    async def run(step: Step, call: StepCall) -> ContainerOutput:
        return answer(step, "remembered")

    pieces, job = await stream_with(Around(run))
    assert (pieces, job.status) == ([b'"remembered"'], JobStatus.SUCCESS)


async def test_a_plugin_that_breaks_in_a_stream_breaks_it_off() -> None:
    def broken(piece: bytes) -> list[bytes]:
        if piece == b"b":
            raise ValueError("no b")
        return [piece]

    async with (
        make_node(functions(letters=letters), plugins=[changing(broken, [])]) as node,
        node.stream(request("letters", letters="abc")) as stream,
    ):
        with anyio.fail_after(30), pytest.raises(NodekitError, match="broke off"):
            async for _ in stream:
                pass
        assert stream.job.status is JobStatus.FAILED


# -- the rest ---------------------------------------------------------------------------------


async def test_observers_hear_of_each_attempt_before_it_begins() -> None:
    told = Told()

    async def fails_once(step: Step) -> ContainerOutput:
        if step.attempt == 1:
            raise ContainerFailed("connection", "not yet")
        return answer(step, step.container)

    runner = SwitchRunner(Container(id="x", retry=Retry(attempts=2, first_delay_seconds=0)), run=fails_once)
    async with make_node(runner, plugins=[told]) as node:
        job = await ended(node, "x")
    started = [(event.job.id, event.step.container, event.step.attempt) for event in told.events[1:3]]
    assert started == [(job.id, "x", 1), (job.id, "x", 2)]
    assert [type(event) for event in told.events[1:]] == [StepStarted, StepStarted, StepFinished, JobFinished]


async def test_without_such_a_plugin_a_step_makes_no_call_of_the_machinery() -> None:
    machinery: list[str] = []

    def count(frame: FrameType, event: str, argument: Any) -> None:
        file = Path(frame.f_code.co_filename)
        if event == "call" and (file == Path(manager.__file__) or file == Path(step_call.__file__)):
            machinery.append(frame.f_code.co_qualname)

    async with make_node(functions()) as node:
        sys.setprofile(count)
        try:
            await ended(node, "echo", "echo")
        finally:
            sys.setprofile(None)
    assert machinery == ["Hooks.admit"]
