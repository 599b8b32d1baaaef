"""`Node.stream`: jobs whose last container is read while it runs."""

from collections.abc import AsyncGenerator
from typing import Any

import anyio
import pytest
from components import (
    Gate,
    SpiedStore,
    SwitchRunner,
    Told,
    broken,
    functions,
    make_node,
    read,
    request,
    settle_down,
    until,
)

from nodekit import (
    ClaimLost,
    CompositionError,
    Container,
    ContainerError,
    ContainerFailed,
    ContainerOutput,
    EmbeddedStore,
    Job,
    JobAccepted,
    JobFinished,
    JobRequest,
    JobStatus,
    JobStream,
    Location,
    Node,
    Retry,
    StepFinished,
    StoreFailed,
    StreamBroken,
    Unavailable,
    encode_payload,
)
from nodekit.testing import Faults, VirtualClock, make_job
from nodekit_memory import MemoryTable

pytestmark = pytest.mark.anyio


async def letters(data: Any) -> AsyncGenerator[str, None]:
    """Yield the pieces one by one; `!` raises an error, and `…` waits for ever."""
    for piece in data["pieces"]:
        if piece == "!":
            raise ValueError("on purpose")
        if piece == "…":
            await anyio.sleep_forever()
        yield piece


async def streamed(node: Node, request: JobRequest) -> tuple[list[bytes], Job]:
    async with node.stream(request) as stream:
        return await read(stream), stream.job


async def broken_off(stream: JobStream) -> None:
    with pytest.raises(StreamBroken):
        await read(stream)


def error(job: Job) -> ContainerError:
    assert isinstance(job.result, ContainerError)
    return job.result


# -- what a reader gets ---------------------------------------------------------------------------


async def test_pieces_come_as_they_are_given_and_the_result_is_stored_before_the_end() -> None:
    async with make_node(functions(letters=letters)) as node:
        pieces, job = await streamed(node, request("letters", pieces=["a", "", "bc", "ü"]))
        assert pieces == [b"a", b"bc", "ü".encode()]
        assert (await node.fetch([job.id])) == [job]
        assert job.status is JobStatus.SUCCESS
        assert isinstance(job.result, ContainerOutput)
        assert job.result.value == {"output": "abcü"}
        assert job.result.instance == "function"


async def test_all_containers_but_the_last_run_first_and_only_the_last_is_told_that_it_streams() -> None:
    seen: list[tuple[str, Location]] = []

    async def run(step: Any) -> Any:
        seen.append((step.container, step.input.destination))
        return ContainerOutput(container=step.container, output=step.input.data)

    first = SwitchRunner(Container(id="a"), Container(id="b"), run=run)
    async with make_node(first, functions(letters=letters)) as node:
        pieces, job = await streamed(node, request("a", "b", "letters", pieces=["x"]))
    assert pieces == [b"x"]
    assert seen == [("a", Location.OFFCHAIN), ("b", Location.OFFCHAIN)]
    assert [record.container for record in job.steps] == ["a", "b", "letters"]
    assert job.request.destination is Location.STREAM


async def test_of_a_runner_that_does_not_stream_the_output_comes_in_one_piece() -> None:
    async def run(step: Any) -> Any:
        return ContainerOutput(container=step.container, output=encode_payload({"one": 1}))

    async with make_node(SwitchRunner(Container(id="whole"), run=run)) as node:
        pieces, job = await streamed(node, request("whole"))
    assert pieces == [b'{"one":1}']
    assert isinstance(job.result, ContainerOutput)
    assert job.result.value == {"output": '{"one":1}'}


async def test_a_generator_is_an_ordinary_container_too() -> None:
    async with make_node(functions(letters=letters)) as node:
        job = await node.submit(request("letters", "echo", pieces=["a", "b"]))
        (job,) = await node.wait([job.id])
    assert isinstance(job.result, ContainerOutput)
    assert job.result.value == {"output": "ab"}


async def test_nothing_is_called_before_the_first_piece_is_asked_for() -> None:
    gate = Gate()
    gate.opened.set()
    async with make_node(functions(gate=gate)) as node, node.stream(request("gate")) as stream:
        assert await node.fetch([stream.job.id]), "it can be read from the moment that its id is there"
        await settle_down()
        assert gate.calls == 0
        await read(stream)
        assert gate.calls == 1


async def test_a_slow_reader_slows_the_container_down() -> None:
    given = 0

    async def endless(data: Any) -> AsyncGenerator[bytes, None]:
        nonlocal given
        while True:
            given += 1
            yield b"x" * 1000

    async with make_node(functions(endless=endless)) as node, node.stream(request("endless")) as stream:
        await anext(stream)
        await settle_down()
        assert given <= 2
        await anext(stream)
        await settle_down()
        assert given <= 3


# -- how it ends ----------------------------------------------------------------------------------


async def test_an_earlier_step_that_fails_ends_it_without_a_piece() -> None:
    async with make_node(functions(letters=letters)) as node:
        pieces, job = await broken(node, request("letters", "echo", pieces=["!"]))
    assert pieces == []
    assert job.status is JobStatus.FAILED
    assert error(job).container == "letters"


@pytest.mark.parametrize("begun", [False, True], ids=["before it runs", "while it runs"])
async def test_a_reader_that_leaves_cancels_the_job_and_the_call(begun: bool) -> None:
    gate = Gate()
    async with make_node(functions(gate=gate)) as node:
        async with node.stream(request("gate")) as stream, anyio.create_task_group() as tasks:
            if begun:
                tasks.start_soon(anext, stream)
                await until(lambda: gate.running)
                tasks.cancel_scope.cancel()
        with anyio.fail_after(60):
            (job,) = await node.wait([stream.job.id])
        assert job.status is JobStatus.CANCELLED
        assert error(job).error == "cancelled"
        attempts = [(one.kind, one.failure) for step in job.steps for one in step.attempts]
        assert attempts == [("cancelled", "the reader left the stream")] * begun
        await until(lambda: gate.running == 0)
        assert (await node.pending()).total == 0


async def test_a_job_that_is_cancelled_breaks_its_stream() -> None:
    gate = Gate()
    async with make_node(functions(gate=gate)) as node, node.stream(request("gate")) as stream:
        async with anyio.create_task_group() as tasks:

            async def expect() -> None:
                with pytest.raises(StreamBroken):
                    await anext(stream)

            tasks.start_soon(expect)
            await until(lambda: gate.running)
            await node.cancel(stream.job.id)
        assert gate.cancelled == 1


@pytest.mark.parametrize("container", ["letters", "echo"])
async def test_a_stream_whose_claim_is_lost_is_not_whole(container: str) -> None:
    faults = Faults()
    faults.before("save").fail(ClaimLost("the node was out of touch for too long"))
    runner = functions(letters=letters)
    async with make_node(runner, store=faults.around(SpiedStore())) as node:
        async with node.stream(request(container, pieces=["a", "b"])) as stream:
            await broken_off(stream)
        assert not stream.job.status.finished


async def test_a_call_that_takes_too_long_ends_in_mid_stream() -> None:
    async with make_node(functions({"letters": {"timeout_seconds": 0.1}}, letters=letters)) as node:
        pieces, job = await broken(node, request("letters", pieces=["a", "…"]))
    assert pieces == [b"a"]
    assert error(job).kind == "timeout"


async def test_a_job_that_takes_too_long_ends_in_mid_stream_and_while_it_waits_for_a_slot() -> None:
    down = SwitchRunner(Container(id="down"), up=())
    async with make_node(functions(letters=letters), down, job_timeout_seconds=0.1) as node:
        for asked in (request("letters", pieces=["a", "…"]), request("down")):
            _, job = await broken(node, asked)
            assert error(job).kind == "job_timeout"
            assert error(job).error == "the job was not finished within 0.1 s"


async def test_a_stream_waits_for_a_slot_no_longer_than_the_queue_allows() -> None:
    gate, store = Gate(), SpiedStore()
    limits: dict[str, Any] = {"queue_timeout_seconds": 0.1, "concurrency": 1, "drain_seconds": 0}
    async with make_node(functions(gate=gate), store=store, **limits) as node:
        await node.submit(request("gate"))
        await until(lambda: gate.running)
        pieces, job = await broken(node, request("echo"))
    assert pieces == []
    assert store.calls["save"] == 1  # its end, and nothing after that
    assert error(job).kind == "queue_timeout"
    assert error(job).error == "waited in the queue for more than 0.1 s"


class Crowded(MemoryTable):
    full = False

    async def save(self, job: Job) -> None:
        if self.full:
            raise StoreFailed("no space left")
        await super().save(job)


@pytest.mark.parametrize("full", [False, True], ids=["and stores their end", "and cannot store their end"])
async def test_a_node_that_goes_away_fails_its_streams_as_interrupted(full: bool) -> None:
    table, gate = Crowded(), Gate()
    jobs: list[Job] = []

    async def expect() -> None:
        jobs.append((await broken(node, request("gate")))[1])

    async with anyio.create_task_group() as tasks:
        async with make_node(functions(gate=gate), store=EmbeddedStore(table), drain_seconds=0) as node:
            tasks.start_soon(expect)
            await until(lambda: gate.running)
            table.full = full
    (job,) = jobs
    assert await table.get([job.id]) == [job]
    if full:
        assert not job.status.finished
    else:
        assert (error(job).container, error(job).error) == ("gate", "interrupted")


# -- admission, slots, retries --------------------------------------------------------------------


async def test_streams_count_as_pending_from_the_moment_that_they_are_asked_for() -> None:
    faults = Faults()
    faults.before("add").hang()
    store = EmbeddedStore(faults.around(MemoryTable()))
    async with make_node(store=store, max_pending=3) as node, anyio.create_task_group() as tasks:
        outcomes: list[type[Exception] | None] = []

        async def attempt() -> None:
            try:
                async with node.stream(request(client="local")) as stream:
                    outcomes.append(None)
                    await read(stream)
            except Unavailable:
                outcomes.append(Unavailable)

        for _ in range(10):
            tasks.start_soon(attempt)
        await until(lambda: len(outcomes) == 7)
        faults.lift()
    assert outcomes.count(None) == 3


async def test_streams_take_slots_and_give_them_back() -> None:
    gate = Gate()
    settings = {"gate": {"concurrency": 4}}
    async with make_node(functions(settings, gate=gate), concurrency=6) as node, anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(streamed, node, request("echo", "gate", "echo"))
        await until(lambda: gate.running == 2)
        await settle_down()
        assert gate.running == 2
        gate.opened.set()
        await until(lambda: gate.calls == 5)
    assert gate.most == 2


async def test_a_stream_comes_before_what_is_queued_and_no_more_run_than_may() -> None:
    gate = Gate()
    running, most, order = 0, 0, list[str]()

    async def one(data: Any) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        order.append(data["who"])
        await anyio.sleep(0)
        running -= 1
        return {}

    async with make_node(functions(gate=gate, one=one), concurrency=1) as node:
        held = await node.submit(request("gate"))
        await until(lambda: gate.running)
        queued = [await node.submit(request("one", who="queued")) for _ in range(20)]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(streamed, node, request("one", who="stream"))
            await settle_down()
            gate.opened.set()
        await node.wait([held.id, *(job.id for job in queued)])
    assert order[0] == "stream"
    assert order.count("queued") == 20
    assert most == 1


async def test_a_stream_and_queued_jobs_together_are_no_more_than_may_run() -> None:
    gate = Gate()
    async with make_node(functions(gate=gate), concurrency=2) as node, anyio.create_task_group() as tasks:
        tasks.start_soon(streamed, node, request("gate"))
        await until(lambda: gate.running == 1)
        jobs = await node.submit_many([request("gate", client="bob"), request("gate", client="carol")])
        await until(lambda: gate.running == 2)
        await settle_down()
        gate.opened.set()
        await node.wait([job.id for job in jobs if isinstance(job, Job)])
    assert (gate.calls, gate.most) == (3, 2)


async def test_a_stream_waits_for_a_container_that_is_down() -> None:
    runner = SwitchRunner(Container(id="late"), up=())
    async with make_node(runner) as node, anyio.create_task_group() as tasks:
        tasks.start_soon(streamed, node, request("late"))
        await settle_down()
        assert runner.steps == []
        runner.switch("late")


async def test_a_stream_waits_no_longer_than_the_queue_allows_for_a_container_that_went_down_unnoticed(
    clock: VirtualClock,
) -> None:
    runner = SwitchRunner(Container(id="x"))
    async with make_node(runner, queue_timeout_seconds=30) as node, anyio.create_task_group() as tasks:
        await settle_down()
        runner.up = set()  # it does not report the change
        async with node.stream(request("x")) as stream:
            tasks.start_soon(broken_off, stream)
            await clock.advance(31)
            with anyio.fail_after(20):
                (job,) = await node.wait([stream.job.id])
    assert error(job).kind == "queue_timeout"


async def test_a_stream_that_waits_between_its_steps_holds_no_slot() -> None:
    late, one = SwitchRunner(Container(id="late"), up=()), Gate()
    async with make_node(late, functions(one=one), concurrency=1) as node, anyio.create_task_group() as tasks:
        tasks.start_soon(streamed, node, request("one", "late"))
        await until(lambda: one.running)
        job = await node.submit(request())
        one.opened.set()
        with anyio.fail_after(20):
            await node.wait([job.id])
        assert late.steps == []
        late.switch("late")


async def test_a_job_gets_the_slot_of_a_stream_that_waits_to_be_tried_again() -> None:
    gate = Gate()

    async def flaky(data: Any) -> Any:
        if data["who"] == "job":
            return {}
        await gate(data)
        raise ContainerFailed("connection", "not yet", retry_after=3600.0)

    settings = {"flaky": {"retry": Retry(attempts=2), "concurrency": 1}}
    async with make_node(functions(settings, flaky=flaky)) as node, anyio.create_task_group() as tasks:
        tasks.start_soon(streamed, node, request("flaky", who="stream"))
        await until(lambda: gate.running)
        job = await node.submit(request("flaky", who="job"))
        await settle_down()
        gate.opened.set()
        with anyio.fail_after(20):
            (job,) = await node.wait([job.id])
        tasks.cancel_scope.cancel()
    assert job.status is JobStatus.SUCCESS


async def test_a_stream_is_tried_again_after_its_delay_and_not_before(clock: VirtualClock) -> None:
    attempts = 0
    pieces: list[bytes] = []

    async def flaky(data: Any) -> AsyncGenerator[str, None]:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise ContainerFailed("connection", "not yet", retry_after=3600.0 if attempts == 1 else None)
        yield "a"

    retry = Retry(attempts=5, first_delay_seconds=0)
    async with make_node(functions({"flaky": {"retry": retry}}, flaky=flaky)) as node:
        async with node.stream(request("flaky")) as stream, anyio.create_task_group() as tasks:

            async def take() -> None:
                pieces.extend([piece async for piece in stream])

            tasks.start_soon(take)
            await until(lambda: attempts == 1)
            await clock.advance(3599)
            assert attempts == 1
            await clock.advance(2)
    assert pieces == [b"a"]
    assert [attempt.failure for attempt in stream.job.steps[0].attempts] == ["not yet", "not yet", None]


@pytest.mark.parametrize(
    ("of_container", "of_node"), [({"concurrency": 1}, {}), ({}, {"concurrency": 1})], ids=["container", "node"]
)
async def test_a_stream_that_waits_to_be_tried_again_holds_no_slot_and_leaves_none_taken(
    of_container: dict[str, Any], of_node: dict[str, Any]
) -> None:
    running = most = 0
    fails = {"left", "a", "b"}

    async def flaky(data: Any) -> AsyncGenerator[str, None]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await settle_down()
            if data["who"] in fails:
                fails.discard(data["who"])
                raise ContainerFailed("connection", "not yet", retry_after=60.0 if data["who"] == "left" else 0.01)
            yield data["who"]
        finally:
            running -= 1

    retry = Retry(attempts=5, first_delay_seconds=0.01)
    async with make_node(functions({"flaky": {"retry": retry, **of_container}}, flaky=flaky), **of_node) as node:
        async with node.stream(request("flaky", who="left")) as stream, anyio.create_task_group() as tasks:
            tasks.start_soon(anext, stream)
            await until(lambda: "left" not in fails)
            assert (await streamed(node, request("flaky", who="meanwhile")))[0] == [b"meanwhile"]
            tasks.cancel_scope.cancel()
        async with anyio.create_task_group() as tasks:
            for who in ("a", "b"):
                tasks.start_soon(streamed, node, request("flaky", who=who))
        job = await node.submit(request("flaky", who="job"))
        with anyio.fail_after(60):
            (job,) = await node.wait([job.id])
    assert job.status is JobStatus.SUCCESS
    assert most == 1


async def test_a_stream_that_is_never_asked_for_a_piece_ends_with_its_time() -> None:
    async with make_node(job_timeout_seconds=0.1) as node, node.stream(request()) as stream:
        with anyio.fail_after(60):
            (job,) = await node.wait([stream.job.id])
    assert error(job).kind == "job_timeout"


async def test_a_caller_whose_node_ends_while_its_stream_is_kept_is_told(caplog: pytest.LogCaptureFixture) -> None:
    faults, outcomes = Faults(), list[str]()
    faults.before("add").hang()

    async def attempt(node: Node) -> None:
        try:
            await streamed(node, request())
        except StreamBroken as broken:
            outcomes.append(error(broken.job).error)

    async def keep_once_it_was_not_drained() -> None:
        await until(lambda: "not drained" in caplog.text)
        await settle_down()
        faults.lift()

    async with anyio.create_task_group() as tasks:
        async with make_node(store=EmbeddedStore(faults.around(MemoryTable())), drain_seconds=0.05) as node:
            tasks.start_soon(attempt, node)
            await settle_down()
            tasks.start_soon(keep_once_it_was_not_drained)
        with anyio.fail_after(60):
            await until(lambda: outcomes)
    assert outcomes == ["interrupted"]


async def test_interrupted_streams_that_cannot_be_failed_do_not_keep_a_node_from_starting() -> None:
    table, faults = MemoryTable(), Faults()
    async with EmbeddedStore(table) as store:
        await store.add_claimed(make_job(destination=Location.STREAM))
    faults.before("save").fail(StoreFailed("no space left"))
    async with make_node(store=EmbeddedStore(faults.around(table))) as node:
        (id,) = await node.find()
        (left,) = await node.fetch([id])
        assert not left.status.finished
        faults.lift()
        job = await node.submit(request())
        await node.wait([job.id])
        (left,) = await node.fetch([id])
    assert error(left).error == "interrupted"


async def test_interrupted_streams_that_could_not_be_failed_are_tried_again_without_another_write(
    clock: VirtualClock,
) -> None:
    table, faults, told = MemoryTable(), Faults(), Told()
    async with EmbeddedStore(table) as store:
        await store.add_claimed(make_job(destination=Location.STREAM))
    faults.before("save").fail(StoreFailed("no space left"))
    async with make_node(store=EmbeddedStore(faults.around(table)), plugins=[told]) as node:
        (id,) = await node.find()
        await clock.advance(6)
        faults.lift()
        assert not (await node.fetch([id]))[0].status.finished
        await clock.advance(6)
        (job,) = await node.wait([id])
        await settle_down()
    assert error(job).error == "interrupted"
    assert [event.job.id for event in told.events if isinstance(event, JobFinished)] == [id]


async def test_what_fails_after_the_first_piece_is_not_tried_again_and_the_job_has_failed() -> None:
    attempts = 0

    async def flaky(data: Any) -> AsyncGenerator[str, None]:
        nonlocal attempts
        attempts += 1
        yield "a"
        raise ContainerFailed("connection", "no more")

    async with make_node(functions({"flaky": {"retry": Retry(attempts=5)}}, flaky=flaky)) as node:
        pieces, job = await broken(node, request("flaky"))
        assert await node.fetch([job.id]) == [job]
    assert (pieces, attempts) == ([b"a"], 1)
    assert (job.status, error(job).error) == (JobStatus.FAILED, "no more")


async def test_observers_are_told_as_of_any_job() -> None:
    told = Told()
    async with make_node(functions(letters=letters), plugins=[told]) as node:
        await streamed(node, request("letters", pieces=["a"]))
        assert told.kinds == [JobAccepted, StepFinished, JobFinished]
        told.events.clear()
        async with node.stream(request("letters", pieces=["…"])):
            pass
        await until(told.ends)
        assert told.kinds == [JobAccepted, JobFinished]
    told.events.clear()
    async with make_node(SwitchRunner(Container(id="x"), up=()), plugins=[told], job_timeout_seconds=0.01) as node:
        await broken(node, request("x"))
        assert told.kinds == [JobAccepted, JobFinished]


async def test_a_function_that_gives_pieces_must_be_async_and_give_bytes_or_text() -> None:
    def plain(data: Any) -> Any:
        yield "a"

    with pytest.raises(CompositionError, match="must be `async def`"):
        functions(plain=plain)

    async def odd(data: Any) -> AsyncGenerator[Any, None]:
        yield "a"
        yield data["piece"]
        yield "b"

    async with make_node(functions(odd=odd)) as node:
        for piece, kind in ((1, "int"), (None, "NoneType")):
            pieces, job = await broken(node, request("odd", piece=piece))
            assert pieces == [b"a"]
            assert error(job).error == f"the output is a piece that is neither bytes nor text: {kind}"
