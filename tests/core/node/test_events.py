"""Events of jobs: each is emitted once and in order, whatever ends the job and whichever clients have left."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
from components import Gate, SpiedStore, Told, functions, give_up, make_node, request, settle_down, until
from msgspec.structs import replace

from nodekit import (
    EmbeddedStore,
    Job,
    JobAccepted,
    JobFinished,
    JobStatus,
    Location,
    Node,
    NodekitError,
    Outcome,
    Refusal,
    RequestRefused,
    Retry,
    StepFinished,
    StoreFailed,
    StreamBroken,
)
from nodekit.testing import Faults, make_job
from nodekit_memory import MemoryTable

pytestmark = pytest.mark.anyio


# -- callers that go ------------------------------------------------------------------------------


async def submit(node: Node, failed: Job, running: Job) -> None:
    await node.submit(request())


async def stream(node: Node, failed: Job, running: Job) -> None:
    async with node.stream(request()):
        pass


async def retry(node: Node, failed: Job, running: Job) -> None:
    await node.retry(failed.id)


async def cancel(node: Node, failed: Job, running: Job) -> None:
    await node.cancel(running.id)


@pytest.mark.parametrize(("anyio_backend", "native"), [("asyncio", True), ("asyncio", False), ("trio", False)])
@pytest.mark.parametrize(
    ("call", "changes", "kinds", "status"),
    [
        (submit, "add", [JobAccepted, StepFinished, JobFinished], JobStatus.SUCCESS),
        (stream, "add", [JobAccepted, JobFinished], JobStatus.CANCELLED),
        (retry, "add", [JobAccepted, StepFinished, JobFinished], JobStatus.FAILED),
        (cancel, "save", [JobFinished], JobStatus.CANCELLED),
    ],
)
async def test_what_was_changed_is_told_although_its_caller_has_gone(
    call: Any, changes: str, kinds: list[type], status: JobStatus, native: bool
) -> None:
    """The caller is cancelled while the table works, by a cancel scope or by `Task.cancel`."""

    async def fail(data: Any) -> Any:
        raise ValueError("no")

    told, gate, faults = Told(), Gate(), Faults()
    store = EmbeddedStore(faults.around(MemoryTable()))
    async with make_node(functions(fail=fail, gate=gate), store=store, plugins=[told]) as node:
        jobs = [await node.submit(request(container)) for container in ("fail", "gate")]
        await until(lambda: gate.running and told.ends())
        told.events.clear()
        held = faults.before(changes, 1).hang()
        if native:
            task = asyncio.ensure_future(call(node, *jobs))
            await held.happened()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        else:
            assert await give_up(lambda: call(node, *jobs), once=held.happened)
        faults.lift()
        await until(told.ends)
        assert told.kinds == kinds
        assert told.ends() == await node.fetch([told.ends()[0].id])
        assert told.ends()[0].status is status
        gate.opened.set()


async def test_a_node_waits_for_a_job_that_is_being_kept_and_tells_of_it_before_its_plugins_are_left() -> None:
    told, faults = Told(), Faults()
    faults.before("add").hang()

    class Open:
        @asynccontextmanager
        async def nodekit_lifespan(self) -> AsyncIterator[None]:
            yield
            assert told.kinds == [JobAccepted]

    async with anyio.create_task_group() as tasks:
        async with make_node(store=EmbeddedStore(faults.around(MemoryTable())), plugins=[told, Open()]) as node:
            with anyio.move_on_after(0.01):
                await node.submit(request())

            async def go_on() -> None:
                await until(lambda: not node._admission.open)
                await settle_down()
                faults.lift()

            tasks.start_soon(go_on)


# -- ends -----------------------------------------------------------------------------------------


async def test_a_stream_that_ends_with_its_node_is_told_once() -> None:
    told, gate = Told(), Gate()
    async with anyio.create_task_group() as tasks:
        async with make_node(functions(gate=gate), plugins=[told], drain_seconds=0) as node:

            async def read() -> None:
                async with node.stream(request("gate")) as stream:
                    with pytest.raises(StreamBroken):
                        await anext(stream)

            tasks.start_soon(read)
            await until(lambda: gate.running)
    (job,) = told.ends()
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


async def test_an_end_that_the_store_kept_without_saying_so_is_told_once_also_by_a_node_that_stops() -> None:
    class Mute(SpiedStore):
        async def save(self, claim: Any, job: Job) -> None:
            if not self.calls["save"]:
                await super().save(claim, job)
            self.calls["save"] += 1
            raise StoreFailed("the connection was lost")

    told, store = Told(), Mute()
    async with make_node(store=store, plugins=[told], drain_seconds=0) as node:
        await node.submit(request())
        await until(lambda: store.calls["save"] > 2)
    assert told.kinds == [JobAccepted, StepFinished, JobFinished]


async def test_a_cancel_that_was_kept_without_an_answer_is_told_once() -> None:
    told, faults, gate = Told(), Faults(), Gate()
    store = EmbeddedStore(faults.around(MemoryTable()))
    async with make_node(functions(gate=gate), store=store, plugins=[told], concurrency=1) as node:
        first, second = [await node.submit(request("gate")) for _ in range(2)]
        await until(lambda: gate.running)
        lost = faults.after("save").fail(StoreFailed("the connection was lost"))
        faults.before("get", where=lambda *_, **__: lost.times > 0).fail(StoreFailed("the connection is lost"))
        with pytest.raises(StoreFailed):
            await node.cancel(second.id)
        faults.lift()
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
