"""`nodekit_run`: what plugins run beside the node."""

from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from components import Gate, functions, make_node, request, until

from nodekit import EmbeddedStore, JobStatus, NodekitError, Unavailable
from nodekit_memory import MemoryTable

pytestmark = pytest.mark.anyio


class Runs:
    """A plugin that runs until it is cancelled, and notes what happens."""

    def __init__(self) -> None:
        self.life: list[str] = []
        self.begun = anyio.Event()

    @asynccontextmanager
    async def nodekit_lifespan(self) -> Any:
        self.life.append("opened")
        yield
        self.life.append("closed")

    async def nodekit_run(self, node: Any) -> None:
        self.life.append(f"runs beside {node.name}")
        self.begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.life.append(f"ends with {node.in_flight} jobs")


async def test_it_runs_from_when_requests_are_taken_until_the_node_has_drained() -> None:
    plugin, gate = Runs(), Gate()
    async with anyio.create_task_group() as tasks:
        async with make_node(functions(gate=gate), plugins=[plugin]) as node:
            with anyio.fail_after(20):
                await plugin.begun.wait()
            await node.submit(request("gate"))
            await until(lambda: gate.running)
            tasks.start_soon(_open_later, gate)
    assert plugin.life == ["opened", "runs beside node", "ends with 0 jobs", "closed"]


async def _open_later(gate: Gate) -> None:
    await anyio.sleep(0.05)
    gate.opened.set()


async def test_it_may_submit_jobs_and_return() -> None:
    done: list[Any] = []

    class Once:
        async def nodekit_run(self, node: Any) -> None:
            job = await node.submit(request())
            done.extend(await node.wait([job.id]))

    async with make_node(plugins=[Once()]) as node:
        await until(lambda: done)
        assert (await node.submit(request())).id != done[0].id
    assert done[0].status is JobStatus.SUCCESS


async def test_its_failure_ends_the_node_and_names_the_plugin_and_loses_no_job(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table, gate = MemoryTable(), Gate()

    class Breaks:
        async def nodekit_run(self) -> None:
            await until(lambda: gate.running)
            raise KeyError("its own fault")

    ids: list[str] = []

    async def live() -> None:
        async with make_node(functions(gate=gate), store=EmbeddedStore(table), plugins=[Breaks()]) as node:
            ids.append((await node.submit(request("gate"))).id)
            with anyio.fail_after(20):
                await anyio.sleep_forever()

    with pytest.raises(ExceptionGroup) as raised:
        await live()
    errors: BaseException = raised.value
    while isinstance(errors, ExceptionGroup):
        (errors,) = errors.exceptions
    assert isinstance(errors, NodekitError)
    assert str(errors) == "plugins[0] (Breaks): nodekit_run failed: 'its own fault'"
    assert "plugin 0:Breaks failed in nodekit_run; the node ends" in caplog.text
    gate.opened.set()
    async with make_node(functions(gate=gate), store=EmbeddedStore(table)) as node:
        with anyio.fail_after(20):
            assert (await node.wait(ids))[0].status is JobStatus.SUCCESS


# -- drain ------------------------------------------------------------------------------------


async def test_a_node_that_drains_refuses_work_and_serves_waiters_until_its_jobs_have_ended() -> None:
    gate = Gate()
    async with make_node(functions(gate=gate)) as node, anyio.create_task_group() as tasks:
        job = await node.submit(request("gate"))
        await until(lambda: gate.running)
        waited: list[Any] = []

        async def wait() -> None:
            waited.extend(await node.wait([job.id]))

        tasks.start_soon(wait)
        tasks.start_soon(node.drain)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(Unavailable, match="draining"):
            await node.submit(request())
        gate.opened.set()
        with anyio.fail_after(20):
            await node.drain()
            await until(lambda: waited)
        assert waited[0].status is JobStatus.SUCCESS
        assert await node.fetch([job.id]) == waited


async def test_followers_of_a_job_that_did_not_end_in_time_end_with_the_drain_and_not_with_the_node() -> None:
    table, gate = MemoryTable(), Gate()
    async with make_node(functions(gate=gate), store=EmbeddedStore(table), drain_seconds=0.05) as node:
        job = await node.submit(request("gate"))
        await until(lambda: gate.running)
        with anyio.fail_after(20):
            await node.drain()
            with pytest.raises(NodekitError, match="not running"):
                async for _ in node.follow(job.id):
                    pass
        assert gate.running == 1
    [job] = await table.get([job.id])
    assert [(one.kind, one.failure) for one in job.steps[0].attempts] == [("interrupted", "the node stopped")]
    assert (job.status, job.attempt, job.due) == (JobStatus.RUNNING, 1, "gate")


async def test_finished_jobs_are_deleted_and_others_are_not() -> None:
    async with make_node(functions(gate=Gate()), drain_seconds=0) as node:
        done, going = await node.submit(request()), await node.submit(request("gate"))
        await node.wait([done.id])
        assert await node.delete([done.id, going.id, "unknown"]) == 1
        assert [job.id for job in await node.fetch([done.id, going.id])] == [going.id]
