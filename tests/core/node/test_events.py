"""Events of jobs: each is emitted once and in order, whatever ends the job and whichever clients have left."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
from components import Gate, SpiedStore, functions, make_node, request, settle_down, until
from msgspec.structs import replace

from nodekit import (
    EmbeddedStore,
    Job,
    JobAccepted,
    JobFinished,
    JobStatus,
    Location,
    NodekitError,
    Outcome,
    Refusal,
    RequestRefused,
    Retry,
    StepFinished,
    StoreFailed,
)
from nodekit.testing import Faults, make_job
from nodekit_memory import MemoryTable

pytestmark = pytest.mark.anyio
both_cancels = pytest.mark.parametrize("native", [False, True], ids=["cancel scope", "Task.cancel"])


class Told:
    """The events that a node emits, in order."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def nodekit_observe(self, event: Any) -> None:
        self.events.append(event)

    @property
    def kinds(self) -> list[type]:
        return [type(event) for event in self.events]

    def ends(self, id: str | None = None) -> list[Job]:
        found = [event.job for event in self.events if isinstance(event, JobFinished)]
        return [job for job in found if id in (None, job.id)]


class Held(MemoryTable):
    """A table whose changes wait, each kind once, until the test lets them through."""

    def __init__(self, *methods: str) -> None:
        super().__init__()
        self.held = set(methods)
        self.begun, self.go_on = anyio.Event(), anyio.Event()

    async def _hold(self, method: str) -> None:
        if method in self.held:
            self.held.remove(method)
            self.begun.set()
            await self.go_on.wait()

    async def add(self, jobs: Any) -> Any:
        await self._hold("add")
        return await super().add(jobs)

    async def save(self, job: Job) -> None:
        await self._hold("save")
        await super().save(job)


async def cut_off(call: Callable[[], Coroutine[Any, Any, Any]], table: Held, *, native: bool, backend: str) -> None:
    """Begin a call, cancel it while the table works on it, and let the table go on."""
    if native:
        if backend != "asyncio":
            pytest.skip("Task.cancel is asyncio's own")
        task = asyncio.ensure_future(call())
        await table.begun.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    else:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await table.begun.wait()
            tasks.cancel_scope.cancel()
    table.go_on.set()


# -- callers that go ------------------------------------------------------------------------------


@both_cancels
async def test_a_job_is_told_as_accepted_although_its_caller_has_gone(native: bool, anyio_backend_name: str) -> None:
    told, table = Told(), Held("add")
    async with make_node(store=EmbeddedStore(table), plugins=[told]) as node:
        await cut_off(lambda: node.submit(request()), table, native=native, backend=anyio_backend_name)
        await until(told.ends)
    assert told.kinds == [JobAccepted, StepFinished, JobFinished]


@both_cancels
async def test_a_stream_is_told_as_accepted_although_its_caller_has_gone(native: bool, anyio_backend_name: str) -> None:
    told, table = Told(), Held("add")

    async with make_node(store=EmbeddedStore(table), plugins=[told]) as node:

        async def stream() -> None:
            async with node.stream(request()):
                pass

        await cut_off(stream, table, native=native, backend=anyio_backend_name)
        await until(told.ends)
    assert told.kinds == [JobAccepted, JobFinished]


@both_cancels
async def test_another_try_is_told_as_accepted_although_its_caller_has_gone(
    native: bool, anyio_backend_name: str
) -> None:
    async def fail(data: Any) -> Any:
        raise ValueError("no")

    told, table = Told(), Held()
    async with make_node(functions(fail=fail), store=EmbeddedStore(table), plugins=[told]) as node:
        job = await node.submit(request("fail"))
        await until(told.ends)
        told.events.clear()
        table.held.add("add")
        await cut_off(lambda: node.retry(job.id), table, native=native, backend=anyio_backend_name)
        await until(told.ends)
    assert told.kinds == [JobAccepted, StepFinished, JobFinished]


@both_cancels
async def test_the_end_of_a_job_is_told_although_whoever_ended_it_has_gone(
    native: bool, anyio_backend_name: str
) -> None:
    told, table, gate = Told(), Held(), Gate()
    async with make_node(functions(gate=gate), store=EmbeddedStore(table), plugins=[told]) as node:
        job = await node.submit(request("gate"))
        await until(lambda: gate.running)
        table.held.add("save")
        await cut_off(lambda: node.cancel(job.id), table, native=native, backend=anyio_backend_name)
        await until(told.ends)
        assert (await node.cancel(job.id)) == told.ends()[0]
    assert told.kinds == [JobAccepted, JobFinished]


async def test_a_node_waits_for_a_job_that_is_being_kept_and_tells_of_it_before_its_plugins_are_left() -> None:
    told, table = Told(), Held("add")

    class Open:
        @asynccontextmanager
        async def nodekit_lifespan(self) -> AsyncIterator[None]:
            yield
            assert told.kinds == [JobAccepted]

    async with anyio.create_task_group() as tasks:
        async with make_node(store=EmbeddedStore(table), plugins=[told, Open()]) as node:
            with anyio.move_on_after(0.01):
                await node.submit(request())

            async def go_on() -> None:
                await until(lambda: not node._admission.open)
                await settle_down()
                table.go_on.set()

            tasks.start_soon(go_on)


async def test_a_caller_that_goes_leaves_no_room_for_more_than_the_node_may_hold() -> None:
    told, table, gate = Told(), Held("add"), Gate()
    node = make_node(functions(gate=gate), store=EmbeddedStore(table), plugins=[told], max_pending=1)
    async with node:
        with anyio.move_on_after(0.01):
            await node.submit(request("gate"))
        (second,) = await node.submit_many([request("gate")])
        table.go_on.set()
        await until(lambda: gate.running)
        gate.opened.set()
        await until(told.ends)
    assert not isinstance(second, Job)
    assert told.kinds == [RequestRefused, JobAccepted, StepFinished, JobFinished]


# -- ends -----------------------------------------------------------------------------------------


async def test_a_stream_that_ends_with_its_node_is_told_once() -> None:
    told, gate = Told(), Gate()
    async with anyio.create_task_group() as tasks:
        async with make_node(functions(gate=gate), plugins=[told], drain_seconds=0) as node:

            async def read() -> None:
                with suppress(Exception):
                    async with node.stream(request("gate")) as stream:
                        async for _ in stream:
                            pass

            tasks.start_soon(read)
            await until(lambda: gate.running)
    (job,) = told.ends()
    assert job.error is not None
    assert (told.kinds, job.error.kind) == ([JobAccepted, JobFinished], "interrupted")


async def test_a_stream_whose_run_fails_in_the_executor_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> None:
        raise RuntimeError("a fault of ours")

    told = Told()
    async with make_node(plugins=[told]) as node:
        monkeypatch.setattr(node._executor._stream_runs, "_call", broken)
        with suppress(Exception):
            async with node.stream(request()) as stream:
                async for _ in stream:
                    pass
        await until(told.ends)
        (job,) = await node.fetch([told.ends()[0].id])
    assert (told.kinds, told.ends()) == ([JobAccepted, JobFinished], [job])


async def test_an_end_that_is_kept_only_when_the_node_stops_is_told_once() -> None:
    """The store fails while the job ends, and works again when the node releases its claims."""
    told, store = Told(), SpiedStore()
    async with make_node(store=store, plugins=[told], drain_seconds=0) as node:
        store.failures["save"] = 1000
        job = await node.submit(request())
        await until(lambda: store.calls["save"] > 1)
    assert [end.id for end in told.ends()] == [job.id]
    assert told.kinds == [JobAccepted, StepFinished, JobFinished]


async def test_an_end_that_the_store_kept_without_saying_so_is_told_once() -> None:
    faults, told = Faults(), Told()
    faults.after("save", 1).fail(StoreFailed("the connection was lost"))
    async with make_node(store=faults.around(EmbeddedStore(MemoryTable())), plugins=[told]) as node:
        job = await node.submit(request())
        await until(told.ends)
    assert [end.status for end in told.ends(job.id)] == [JobStatus.SUCCESS]
    assert told.kinds == [JobAccepted, StepFinished, JobFinished]


async def test_a_cancel_that_was_kept_without_an_answer_is_told_once() -> None:
    class Silent(MemoryTable):
        breaks = broken = False

        async def save(self, job: Job) -> None:
            await super().save(job)
            if self.breaks:
                self.broken = True
                raise StoreFailed("the connection was lost")

        async def get(self, ids: Any, **asked: Any) -> Any:
            if self.broken:
                raise StoreFailed("the connection is lost")
            return await super().get(ids, **asked)

    told, table, gate = Told(), Silent(), Gate()
    async with make_node(functions(gate=gate), store=EmbeddedStore(table), plugins=[told], concurrency=1) as node:
        first, second = [await node.submit(request("gate")) for _ in range(2)]
        await until(lambda: gate.running)
        table.breaks = True
        with pytest.raises(StoreFailed):
            await node.cancel(second.id)
        table.breaks = table.broken = False
        gate.opened.set()
        await until(lambda: len(told.ends()) == 2)
        await node.wait([first.id])
    assert [end.status for end in told.ends(second.id)] == [JobStatus.CANCELLED]


async def test_streams_that_an_earlier_run_has_left_are_told_once_as_they_end() -> None:
    table, told = MemoryTable(), Told()
    async with EmbeddedStore(table) as store:
        await store.add_claimed(left := make_job(destination=Location.STREAM))
    async with make_node(store=EmbeddedStore(table), plugins=[told]):
        await until(told.ends)
    async with make_node(store=EmbeddedStore(table), plugins=[told]) as node:
        await node.wait([(await node.submit(request())).id])
    assert [end.error and end.error.kind for end in told.ends(left.id)] == ["interrupted"]


async def test_a_stream_that_was_given_back_is_told_by_its_store() -> None:
    table = MemoryTable()
    async with EmbeddedStore(table) as store:
        claim = await store.add_claimed(job := make_job(destination=Location.STREAM))
        await store.release(claim, job)
        with anyio.fail_after(20):
            assert await store.ended() == await store.get([job.id])
        with anyio.move_on_after(0.01) as waiting:
            await store.ended()
    assert waiting.cancelled_caught


async def test_a_job_whose_time_was_over_in_the_queue_is_told_once_also_by_a_node_that_stops() -> None:
    told, store, gate = Told(), SpiedStore(), Gate()
    node = make_node(
        functions({"late": {"queue_timeout_seconds": 0.05}}, gate=gate, late=gate),
        store=store, plugins=[told], concurrency=1, drain_seconds=0,
    )  # fmt: skip
    async with node:
        await node.submit(request("gate"))
        await until(lambda: gate.running)
        store.failures["save"] = 1000
        late = await node.submit(request("late"))
        await until(lambda: store.calls["save"])
    assert [end.error and end.error.kind for end in told.ends()] == ["queue_timeout"]
    assert told.ends()[0].id == late.id


# -- streams that nobody reads --------------------------------------------------------------------


async def test_a_stream_that_nobody_would_read_is_refused_and_the_refusal_says_how_to_ask() -> None:
    calls = 0

    async def flaky(data: Any) -> Any:
        nonlocal calls
        calls += 1
        raise ConnectionError("not now")

    told = Told()
    asked = replace(request("flaky"), destination=Location.STREAM)
    async with make_node(functions({"flaky": {"retry": Retry(attempts=3)}}, flaky=flaky), plugins=[told]) as node:
        with pytest.raises(Refusal, match=r"Node\.stream"):
            await node.submit(asked)
        refused, kept = await node.submit_many([asked, request()])
        assert isinstance(refused, Refusal)
        assert isinstance(kept, Job)
        await until(told.ends)
        assert await node.find() == [kept.id]
    assert [kind for kind in told.kinds if kind is not RequestRefused] == [JobAccepted, StepFinished, JobFinished]
    assert told.kinds.count(RequestRefused) == 2
    assert calls == 0


async def test_a_stream_that_failed_is_retried_as_a_job_of_as_many_attempts_as_any() -> None:
    calls = 0

    async def flaky(data: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise ConnectionError("not now")
        return data

    told = Told()
    async with make_node(functions(flaky=flaky), plugins=[told]) as node:
        with suppress(Exception):
            async with node.stream(request("flaky")) as stream:
                async for _ in stream:
                    pass
        (broken,) = told.ends()
        told.events.clear()
        again = await node.retry(broken.id)
        assert again is not None
        (job,) = await node.wait([again.id])
        await until(told.ends)
    assert job.request.destination is Location.OFFCHAIN
    assert told.kinds == [JobAccepted, StepFinished, JobFinished]


async def test_an_end_that_is_none_is_refused_and_the_job_goes_on() -> None:
    gate = Gate()
    async with make_node(functions(gate=gate)) as node:
        job = await node.submit(request("gate"))
        with pytest.raises(NodekitError, match="success, failed or cancelled"):
            await node.settle(job.id, Outcome(JobStatus.RUNNING))
        gate.opened.set()
        (job,) = await node.wait([job.id])
    assert job.status is JobStatus.SUCCESS
