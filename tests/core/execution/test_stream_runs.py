"""`Node.stream`: jobs whose last container is read while it runs."""

from base64 import b64decode
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
from components import Gate, SpiedStore, SwitchRunner, functions, give_up, make_node, request, settle_down, until
from msgspec.structs import replace

from nodekit import (
    ClientLimits,
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
    Outcome,
    Refusal,
    Retry,
    Sequence,
    StepFinished,
    StoreFailed,
    StreamBroken,
    StreamRecord,
    TooManyJobs,
    Unavailable,
    decode_payload,
    encode_payload,
)
from nodekit.testing import VirtualClock, make_job
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


async def read(stream: JobStream) -> list[bytes]:
    pieces: list[bytes] = []
    await _gather(stream, pieces)
    return pieces


async def streamed(node: Node, request: JobRequest) -> tuple[list[bytes], Job]:
    async with node.stream(request) as stream:
        return await read(stream), stream.job


async def broken(node: Node, request: JobRequest) -> tuple[list[bytes], Job]:
    """Return the bytes before the stream broke off, and the job at that moment."""
    pieces: list[bytes] = []
    async with node.stream(request) as stream:
        with pytest.raises(StreamBroken) as raised:
            await _gather(stream, pieces)
        assert raised.value.job is stream.job
        return pieces, stream.job


async def _gather(stream: JobStream, pieces: list[bytes]) -> None:
    with anyio.fail_after(60):
        async for piece in stream:
            pieces.append(piece)


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


async def test_a_container_that_fails_in_mid_stream_breaks_it_and_the_job_has_failed() -> None:
    async with make_node(functions(letters=letters)) as node:
        pieces, job = await broken(node, request("letters", pieces=["a", "!"]))
        assert (await node.fetch([job.id])) == [job]
    assert pieces == [b"a"]
    assert job.status is JobStatus.FAILED
    assert error(job).error == "ValueError: on purpose"


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
    limits: dict[str, Any] = {"queue_timeout_seconds": 0.1, "concurrency": 1}
    async with make_node(functions(gate=gate), store=store, **limits) as node, running(node, gate):
        pieces, job = await broken(node, request("echo"))
    assert pieces == []
    assert store.calls["save"] == 1  # its end, and nothing after that
    assert error(job).kind == "queue_timeout"
    assert error(job).error == "waited in the queue for more than 0.1 s"


async def test_a_node_that_goes_away_fails_its_streams_as_interrupted() -> None:
    table = MemoryTable()
    gate = Gate()
    node = make_node(functions(gate=gate), store=EmbeddedStore(table), drain_seconds=0)
    async with anyio.create_task_group() as tasks:
        async with node:
            stack = AsyncExitStack()
            stream = await stack.enter_async_context(node.stream(request("gate")))

            async def expect() -> None:
                with pytest.raises(StreamBroken):
                    await anext(stream)

            tasks.start_soon(expect)
            await until(lambda: gate.running)
        await stack.aclose()
    (job,) = await table.get([stream.job.id])
    assert error(job).error == "interrupted"


# -- admission, slots, retries --------------------------------------------------------------------


async def test_what_is_refused_is_no_stream() -> None:
    async with make_node(each_client=ClientLimits(max_pending=1)) as node:
        with pytest.raises(Refusal, match="Container not supported"):
            await streamed(node, request("nobody"))
        async with node.stream(request()):
            with pytest.raises(TooManyJobs):
                await streamed(node, request())
            await streamed(node, request(client="bob"))
    with pytest.raises(Unavailable):
        await streamed(node, request())


async def test_streams_count_as_pending_from_the_moment_that_they_are_asked_for() -> None:
    table = Slow()
    async with make_node(store=EmbeddedStore(table), max_pending=3) as node, anyio.create_task_group() as tasks:
        outcomes: list[type[Exception] | None] = []

        async def attempt() -> None:
            try:
                async with node.stream(request()) as stream:
                    outcomes.append(None)
                    await read(stream)
            except Unavailable:
                outcomes.append(Unavailable)

        for _ in range(10):
            tasks.start_soon(attempt)
        await until(lambda: len(outcomes) == 7)
        table.open.set()
    assert outcomes.count(None) == 3


class Slow(MemoryTable):
    def __init__(self) -> None:
        super().__init__()
        self.open = anyio.Event()

    async def add(self, jobs: Any) -> Any:
        await self.open.wait()
        return await super().add(jobs)


async def test_a_store_that_cannot_keep_it_makes_it_unavailable() -> None:
    class Full(MemoryTable):
        async def add(self, jobs: Any) -> Any:
            raise StoreFailed("no space left")

    async with make_node(store=EmbeddedStore(Full())) as node:
        with pytest.raises(Unavailable):
            await streamed(node, request())
        assert (await node.pending()).total == 0
        assert any("no space left" in reason for reason in (await node.health()).reasons)


async def test_a_caller_that_gives_up_while_it_is_being_kept_leaves_a_cancelled_job() -> None:
    table = Slow()
    async with make_node(store=EmbeddedStore(table)) as node:
        assert await give_up(lambda: streamed(node, request()))
        table.open.set()
        with anyio.fail_after(60):
            while not (found := await node.find()):
                await anyio.sleep(0.005)
        (id,) = found
        with anyio.fail_after(60):
            (job,) = await node.wait([id])
    assert job.status is JobStatus.CANCELLED


async def test_streams_take_slots_and_give_them_back() -> None:
    gate = Gate()
    settings = {"gate": {"concurrency": 2}}
    async with make_node(functions(settings, gate=gate), concurrency=3) as node, anyio.create_task_group() as tasks:
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
        jobs = await node.submit_many([request("gate"), request("gate")])
        await until(lambda: gate.running == 2)
        await settle_down()
        gate.opened.set()
        await node.wait([job.id for job in jobs if isinstance(job, Job)])
    assert (gate.calls, gate.most) == (3, 2)


async def test_streams_of_one_container_do_not_keep_those_of_another_from_the_nodes_slots() -> None:
    order: list[str] = []

    async def many(data: Any) -> Any:
        order.append("many")
        return {}

    async def few(data: Any) -> Any:
        order.append("few")
        return {}

    gate = Gate()
    async with make_node(functions(gate=gate, many=many, few=few), concurrency=1) as node:
        async with anyio.create_task_group() as tasks, running(node, gate):
            for _ in range(10):
                tasks.start_soon(streamed, node, request("many"))
            await settle_down()
            tasks.start_soon(streamed, node, request("few"))
            await settle_down()
            assert order == []
    assert order.index("few") <= 1
    assert order.count("many") == 10


async def test_a_pipeline_that_has_nothing_to_do_gives_a_stream_that_ends_at_once() -> None:
    class Nothing(Sequence):
        def next_step(self, job: Job) -> None:
            return None

        def outcome(self, job: Job) -> Outcome:
            return Outcome(JobStatus.SUCCESS)

    async with make_node(pipelines={"nothing": Nothing()}) as node:
        pieces, job = await streamed(node, replace(request(), pipeline="nothing"))
        assert pieces == []
        assert await node.fetch([job.id]) == [job]


async def test_a_stream_waits_for_a_container_that_is_down() -> None:
    runner = SwitchRunner(Container(id="late"), up=())
    async with make_node(runner) as node, anyio.create_task_group() as tasks:
        tasks.start_soon(streamed, node, request("late"))
        await settle_down()
        assert runner.steps == []
        runner.switch("late")


async def test_what_fails_before_the_first_piece_is_tried_again() -> None:
    attempts = 0

    async def flaky(data: Any) -> AsyncGenerator[str, None]:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise ContainerFailed("connection", "not yet")
        yield "a"

    retry = Retry(attempts=5, first_delay_seconds=0.01)
    async with make_node(functions({"flaky": {"retry": retry}}, flaky=flaky)) as node:
        pieces, job = await streamed(node, request("flaky"))
    assert pieces == [b"a"]
    assert [attempt.failure for attempt in job.steps[0].attempts] == ["not yet", "not yet", None]


async def test_a_stream_is_tried_again_after_its_delay_and_not_before(clock: VirtualClock) -> None:
    attempts = 0
    pieces: list[bytes] = []

    async def flaky(data: Any) -> AsyncGenerator[str, None]:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise ContainerFailed("connection", "not yet", retry_after=3600.0)
        yield "a"

    async with make_node(functions({"flaky": {"retry": Retry(attempts=2)}}, flaky=flaky)) as node:
        async with node.stream(request("flaky")) as stream, anyio.create_task_group() as tasks:

            async def take() -> None:
                pieces.extend([piece async for piece in stream])

            tasks.start_soon(take)
            await until(lambda: attempts == 1)
            await clock.advance(3599)
            assert attempts == 1
            await clock.advance(2)
    assert (attempts, pieces) == (2, [b"a"])


async def test_a_stream_that_waits_to_be_tried_again_holds_no_slot_and_leaves_none_taken() -> None:
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

    settings = {"flaky": {"retry": Retry(attempts=5, first_delay_seconds=0.01), "concurrency": 1}}
    async with make_node(functions(settings, flaky=flaky)) as node:
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
    table = Slow()
    outcomes: list[str] = []

    async def attempt(node: Node) -> None:
        try:
            await streamed(node, request())
        except StreamBroken as broken:
            outcomes.append(error(broken.job).error)

    async def keep_once_it_was_not_drained() -> None:
        await until(lambda: "not drained" in caplog.text)
        await settle_down()
        table.open.set()

    async with anyio.create_task_group() as tasks:
        async with make_node(store=EmbeddedStore(table), drain_seconds=0.05) as node:
            tasks.start_soon(attempt, node)
            await settle_down()
            tasks.start_soon(keep_once_it_was_not_drained)
        with anyio.fail_after(60):
            await until(lambda: outcomes)
    assert outcomes == ["interrupted"]


async def test_interrupted_streams_that_cannot_be_failed_do_not_keep_a_node_from_starting() -> None:
    table = Crowded()
    async with EmbeddedStore(table) as store:
        await store.add_claimed(make_job(destination=Location.STREAM))
    table.full = True
    async with make_node(store=EmbeddedStore(table)) as node:
        (id,) = await node.find()
        (left,) = await node.fetch([id])
        assert not left.status.finished
        table.full = False
        job = await node.submit(request())
        await node.wait([job.id])
        (left,) = await node.fetch([id])
    assert error(left).error == "interrupted"


class Crowded(MemoryTable):
    full = False

    async def save(self, job: Job) -> None:
        if self.full:
            raise StoreFailed("no space left")
        await super().save(job)


async def test_what_fails_after_the_first_piece_is_not_tried_again() -> None:
    attempts = 0

    async def flaky(data: Any) -> AsyncGenerator[str, None]:
        nonlocal attempts
        attempts += 1
        yield "a"
        raise ContainerFailed("connection", "no more")

    async with make_node(functions({"flaky": {"retry": Retry(attempts=5)}}, flaky=flaky)) as node:
        pieces, job = await broken(node, request("flaky"))
    assert pieces == [b"a"]
    assert attempts == 1
    assert error(job).error == "no more"


async def test_observers_are_told_as_of_any_job() -> None:
    told: list[Any] = []

    class Observer:
        def nodekit_observe(self, event: Any) -> None:
            told.append(type(event))

    async with make_node(functions(letters=letters), plugins=[Observer()]) as node:
        await streamed(node, request("letters", pieces=["a"]))
        assert told == [JobAccepted, StepFinished, JobFinished]
        told.clear()
        async with node.stream(request("letters", pieces=["…"])):
            pass
        await until(lambda: len(told) == 2)
        assert told == [JobAccepted, JobFinished]


@asynccontextmanager
async def running(node: Node, gate: Gate) -> AsyncIterator[None]:
    """Run a job that holds a slot meanwhile."""
    job = await node.submit(request("gate"))
    await until(lambda: gate.running)
    try:
        yield
    finally:
        await node.cancel(job.id)


# -- what is kept ---------------------------------------------------------------------------------


def record(*pieces: bytes, most: int) -> Any:
    gathered = StreamRecord(most)
    for piece in pieces:
        gathered.add(piece)
    return decode_payload(gathered.output())


def test_what_is_kept_is_marked_where_it_is_cut_or_no_text() -> None:
    assert record(b"ab", b"cd", most=4) == {"output": "abcd"}
    assert record(b"ab", b"cd", b"e", most=4) == {"output": "abcd", "truncated": True, "bytes": 5}
    assert record(b"abcdefgh", most=4) == {"output": "abcd", "truncated": True, "bytes": 8}
    assert record(b"a", b"\xc3", b"\xa9", most=10) == {"output": "aé"}
    assert record("aé".encode(), b"x", most=2) == {"output": "a", "truncated": True, "bytes": 4}
    assert record(most=1) == {"output": ""}
    odd = record(b"\xff\x00", most=10)
    assert (b64decode(odd.pop("output")), odd) == (b"\xff\x00", {"encoding": "base64"})
    assert record(b"\xc3", most=10) == {"output": "ww==", "encoding": "base64"}


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
