"""Following one job as it changes, and ending one whose end comes from elsewhere."""

import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
import pytest
from components import Gate, SpiedStore, Told, functions, make_node, request, settle_down, until
from msgspec.structs import replace

from nodekit import (
    ContainerError,
    ContainerOutput,
    JobStatus,
    Node,
    NodekitError,
    Outcome,
    StoreFailed,
    encode_payload,
)

pytestmark = pytest.mark.anyio

UNKNOWN = "01900000-0000-7000-8000-000000000000"


@asynccontextmanager
async def followed(node: Node, id: str) -> AsyncIterator[list[tuple[JobStatus, int]]]:
    """Yield a list that grows by the job's status and step count at each change; leave once the follower has ended."""
    seen: list[tuple[JobStatus, int]] = []

    async def follow() -> None:
        async with aclosing(node.follow(id)) as jobs:
            async for job in jobs:
                seen.append((job.status, len(job.results)))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await until(lambda: seen)
            yield seen


# -- follow -------------------------------------------------------------------------------------------


async def test_a_job_is_reported_as_it_is_and_each_time_it_has_changed_and_last_when_it_is_finished() -> None:
    first, second = Gate(), Gate()
    async with make_node(functions(first=first, second=second)) as node:
        job = await node.submit(request("first", "second", n=1))
        async with followed(node, job.id) as seen:
            await until(lambda: first.running)
            first.opened.set()
            await until(lambda: second.running)
            await settle_down()
            assert seen[-1] == (JobStatus.RUNNING, 1)
            second.opened.set()
        assert seen[0] == (JobStatus.ACCEPTED, 0)
        assert seen[-1] == (JobStatus.SUCCESS, 2)
        assert seen == sorted(set(seen), key=lambda one: one[1])
        assert node._waiters.present == {}


async def test_a_finished_job_is_told_once_and_one_that_is_not_there_never() -> None:
    async with make_node() as node:
        (done,) = await node.wait([(await node.submit(request())).id])
        assert [job async for job in node.follow(done.id)] == [done]
        assert [job async for job in node.follow(done.id, client="alice")] == [done]
        assert [job async for job in node.follow(done.id, client="bob")] == []
        assert [job async for job in node.follow(UNKNOWN)] == []


async def test_following_reads_nothing_while_the_job_does_not_change() -> None:
    gate, store = Gate(), SpiedStore()
    async with make_node(functions(gate=gate), store=store) as node:
        job = await node.submit(request("gate"))
        async with followed(node, job.id) as seen:
            await until(lambda: gate.running)
            await settle_down()
            before, told = store.calls["get"], len(seen)
            await node.submit_many([request() for _ in range(20)])
            await until(lambda: node._executor.running == 1)
            await settle_down()
            assert (store.calls["get"], len(seen)) == (before, told)
            gate.opened.set()


async def test_a_follower_that_goes_leaves_the_job_alone_and_nothing_behind() -> None:
    gate = Gate()
    async with make_node(functions(gate=gate)) as node:
        job = await node.submit(request("gate"))
        async with aclosing(node.follow(job.id)) as jobs:
            await anext(jobs)
            with anyio.move_on_after(0.05):
                await anext(jobs)
        assert node._waiters.present == {}
        gate.opened.set()
        assert [done.status for done in await node.wait([job.id])] == [JobStatus.SUCCESS]


async def test_a_follower_holds_no_job_in_memory_while_it_waits_or_is_waited_for() -> None:
    gate = Gate()

    class RecentJobs(SpiedStore):
        """Returns copies that nothing else refers to."""

        async def get(self, ids: Any, **asked: Any) -> Any:
            found = await super().get(ids, **asked)
            copies = [replace(job, request=replace(job.request, client=Traced(job.client))) for job in found]
            traces.extend(weakref.ref(copy.request.client) for copy in copies)
            return copies

    traces: list[Any] = []
    async with make_node(functions(gate=gate), store=RecentJobs()) as node:
        job = await node.submit(request("echo", "gate"))
        await until(lambda: gate.running)
        async with aclosing(node.follow(job.id)) as jobs:
            told = await anext(jobs)
            assert traces[-1]() is told.request.client
            del told
            gc.collect()
            assert [trace() for trace in traces] == [None] * len(traces)  # suspended: its reader is slow
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anext, jobs)
                await settle_down()
                gc.collect()
                assert [trace() for trace in traces] == [None] * len(traces)
                gate.opened.set()


class Traced(str):
    """A text that records when it is garbage collected."""

    __slots__ = ("__weakref__",)


async def test_following_ends_with_an_error_when_the_node_stops_and_was_not_begun_on_one_that_does_not_run() -> None:
    gate = Gate()
    failures: list[str] = []

    async def follow(node: Node, id: str) -> None:
        try:
            async with aclosing(node.follow(id)) as jobs:
                async for _ in jobs:
                    pass
        except NodekitError as error:
            failures.append(str(error))

    async with anyio.create_task_group() as tasks:
        async with make_node(functions(gate=gate), drain_seconds=0) as node:
            job = await node.submit(request("gate"))
            tasks.start_soon(follow, node, job.id)
            await until(lambda: gate.running and node._waiters.present)
            await settle_down()
    assert failures == ["the node is not running; nothing will change"]
    with anyio.fail_after(60):
        await follow(node, job.id)
    assert len(failures) == 2


async def test_a_store_that_fails_ends_the_following_and_leaves_nothing_behind() -> None:
    store = SpiedStore()
    async with make_node(store=store) as node:
        job = await node.submit(request())
        store.failures["get"] = 1
        with pytest.raises(StoreFailed):
            await anext(node.follow(job.id))
        assert node._waiters.present == {}


# -- settle -------------------------------------------------------------------------------------------


async def test_a_job_is_ended_with_what_came_of_it_elsewhere_and_its_step_aborted() -> None:
    gate, told = Gate(), Told()
    output = ContainerOutput(container="gate", output=encode_payload({"n": 2}))
    async with make_node(functions(gate=gate), plugins=[told]) as node:
        job = await node.submit(request("echo", "gate", n=1))
        await until(lambda: gate.running)
        settled = await node.settle(job.id, Outcome(JobStatus.SUCCESS, output))
        assert (settled.now, settled.job.status, settled.job.result) == (True, JobStatus.SUCCESS, output)
        assert [result.container for result in settled.job.intermediate_results] == ["echo"]
        await until(lambda: gate.cancelled == 1)
        assert await node.fetch([job.id]) == [settled.job]
        assert told.ends() == [settled.job]


async def test_the_first_end_of_a_job_is_the_only_one_and_is_told_once() -> None:
    gate, told = Gate(), Told()
    async with make_node(functions(gate=gate), plugins=[told]) as node:
        job = await node.submit(request("gate"))
        failed = Outcome(JobStatus.FAILED, ContainerError(container="gate", error="no"))
        assert await node.settle(UNKNOWN, failed) is await node.settle(job.id, failed, client="bob") is None
        first = await node.settle(job.id, failed, client="alice")
        second = await node.settle(job.id, Outcome(JobStatus.SUCCESS))
        assert (first.now, second.now, second.job) == (True, False, first.job)
        assert await node.cancel(job.id) == first.job
        assert told.ends() == [first.job]
