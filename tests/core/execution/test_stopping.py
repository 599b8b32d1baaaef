"""Calls that fail because their container is stopped together with the node."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import msgspec
import pytest
from components import SwitchRunner, broken, make_node, request, until

from nodekit import (
    Container,
    ContainerError,
    ContainerFailed,
    ContainerOutput,
    EmbeddedStore,
    Job,
    JobStatus,
    Node,
    Retry,
    Step,
)
from nodekit_memory import MemoryTable

pytestmark = pytest.mark.anyio

FAILURES = {
    "died": ContainerFailed("died", "the container's process was killed by SIGTERM"),
    "dropped": ContainerFailed("connection", "the connection was dropped"),
    "unavailable": ContainerFailed("status", "HTTP status 503", status=503),
    "broken": ContainerFailed("status", "HTTP status 500", status=500),
}
GO_ON = ("died", "dropped", "unavailable")


class Leaving(SwitchRunner):
    """A runner whose container fails as it is told, and answers in a second life."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(Container(id="x", **settings), run=self._answer)
        self.failure: ContainerFailed | None = None
        self.fails = anyio.Event()
        self.called = anyio.Event()

    async def _answer(self, step: Step) -> Any:
        self.called.set()
        if self.failure is None:
            return ContainerOutput(container="x", output=msgspec.Raw(b"{}"))
        await self.fails.wait()
        raise self.failure


async def stopped(table: MemoryTable, runner: Leaving, stop: Callable[[Node], Awaitable[None]], **settings: Any) -> str:
    """Run a node with one job until it stops; return the job's id."""
    async with make_node(runner, store=EmbeddedStore(table), **settings) as node:
        job = await node.submit(request("x"))
        with anyio.fail_after(60):
            await runner.called.wait()
        await stop(node)
    return job.id


async def after_restart(table: MemoryTable, id: str) -> Job:
    async with make_node(Leaving(), store=EmbeddedStore(table)) as node:
        [job] = await node.wait([id])
    return job


@pytest.mark.parametrize("kind", GO_ON)
async def test_a_job_whose_container_goes_while_the_node_drains_goes_on_after_the_restart(kind: str) -> None:
    table, runner = MemoryTable(), Leaving()
    runner.failure = FAILURES[kind]
    async with anyio.create_task_group() as tasks:

        async def stop(node: Node) -> None:
            async def fail() -> None:
                await until(lambda: node._executor._draining)
                runner.fails.set()

            tasks.start_soon(fail)

        id = await stopped(table, runner, stop)
    job = await after_restart(table, id)
    assert job.status is JobStatus.SUCCESS
    [step] = job.steps
    assert [(one.kind, one.failure) for one in step.attempts] == [
        ("interrupted", f"the node stopped: {FAILURES[kind].text}"),
        (None, None),
    ]


async def test_a_container_may_die_a_moment_before_its_node_hears_that_it_is_to_stop() -> None:
    table, runner = MemoryTable(), Leaving()
    runner.failure = FAILURES["died"]

    async def stop(node: Node) -> None:
        runner.fails.set()
        await anyio.sleep(0.05)

    id = await stopped(table, runner, stop)
    assert (await after_restart(table, id)).status is JobStatus.SUCCESS


async def test_an_interrupted_attempt_is_not_counted() -> None:
    """The container has one attempt left, and keeps it."""
    table, runner = MemoryTable(), Leaving(retry=Retry(attempts=1))
    runner.failure = FAILURES["died"]

    async def stop(node: Node) -> None:
        runner.fails.set()

    id = await stopped(table, runner, stop)
    later = Leaving(retry=Retry(attempts=1))
    later.failure = FAILURES["broken"]
    later.fails.set()
    async with make_node(later, store=EmbeddedStore(table)) as node:
        [job] = await node.wait([id])
    assert [one.kind for one in job.steps[0].attempts] == ["interrupted", "status"]


@pytest.mark.parametrize("kind", FAILURES)
async def test_a_job_whose_container_fails_while_the_node_goes_on_has_failed(kind: str) -> None:
    runner = Leaving()
    runner.failure = FAILURES[kind]
    runner.fails.set()
    async with make_node(runner) as node:
        [job] = await node.wait([(await node.submit(request("x"))).id])
    assert job.status is JobStatus.FAILED
    assert isinstance(job.result, ContainerError)
    assert job.result.kind == FAILURES[kind].kind


async def test_a_failure_of_the_container_itself_counts_also_while_the_node_drains() -> None:
    table, runner = MemoryTable(), Leaving()
    runner.failure = FAILURES["broken"]
    async with anyio.create_task_group() as tasks:

        async def stop(node: Node) -> None:
            async def fail() -> None:
                await until(lambda: node._executor._draining)
                runner.fails.set()

            tasks.start_soon(fail)

        id = await stopped(table, runner, stop)
    job = await after_restart(table, id)
    assert job.status is JobStatus.FAILED


async def test_a_stream_whose_container_goes_with_the_node_is_interrupted() -> None:
    table, runner, jobs = MemoryTable(), Leaving(), list[Job]()
    runner.failure = FAILURES["died"]

    async def expect() -> None:
        jobs.append((await broken(node, request("x")))[1])

    async with anyio.create_task_group() as tasks:
        async with make_node(runner, store=EmbeddedStore(table)) as node:
            tasks.start_soon(expect)
            with anyio.fail_after(60):
                await runner.called.wait()
            runner.fails.set()
    [job] = jobs
    assert isinstance(job.result, ContainerError)
    assert job.result.kind == "interrupted"
    assert await table.get([job.id]) == [job]
