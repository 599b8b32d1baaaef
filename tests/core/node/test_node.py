"""A node as its clients and its plugins see it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from components import Gate, SpiedStore, SwitchRunner, Told, functions, make_node, request, settle_down, until
from msgspec.structs import replace

from nodekit import (
    UNFINISHED,
    Container,
    EmbeddedStore,
    Job,
    JobAccepted,
    JobQuery,
    JobRequest,
    JobStatus,
    Node,
    NodekitError,
    Refusal,
    StoreFailed,
    Unavailable,
)
from nodekit.testing import make_job, succeeded
from nodekit_memory import MemoryStore, MemoryTable

pytestmark = pytest.mark.anyio


# -- submit, fetch, find ------------------------------------------------------------------------------


async def test_a_job_can_be_fetched_the_moment_its_id_is_known_and_ends_with_its_last_output() -> None:
    async def double(data: Any) -> Any:
        return {"n": data["n"] * 2}

    async with make_node(functions(double=double)) as node:
        job = await node.submit(request("double", "double", "echo", n=3))
        assert [found.id for found in await node.fetch([job.id])] == [job.id]
        (done,) = await node.wait([job.id])
    assert done.status is JobStatus.SUCCESS
    assert done.result.value == {"n": 12}
    assert [result.container for result in done.results] == ["double", "double", "echo"]
    assert [record.attempts[0].failure for record in done.steps] == [None, None, None]


async def test_many_requests_get_as_many_answers_in_their_order() -> None:
    async with make_node() as node:
        asked = [request("echo"), request("ecko"), JobRequest.of(data={}), request("echo")]
        first, unknown, empty, last = await node.submit_many(asked)
        assert [type(answer) for answer in (first, unknown, empty, last)] == [Job, Refusal, Refusal, Job]
        assert first.id < last.id
        assert (unknown.reason, unknown.params) == ("Container not supported", {"container": "ecko"})
        assert empty.reason == "No containers specified"
        assert await node.submit_many([]) == []


async def test_jobs_belong_to_their_client() -> None:
    async with make_node() as node:
        job = await node.submit(request(client="alice"))
        await node.wait([job.id])
        assert await node.fetch([job.id], client="bob") == []
        assert await node.find(JobQuery(client="bob")) == []
        assert await node.wait([job.id], client="bob") == []
        assert await node.cancel(job.id, client="bob") is None
        assert await node.find(JobQuery(client="alice")) == [job.id]


# -- wait ---------------------------------------------------------------------------------------------


async def test_waiting_reads_nothing_until_a_job_has_ended() -> None:
    gate, store = Gate(), SpiedStore()
    async with make_node(functions(gate=gate), store=store) as node, anyio.create_task_group() as tasks:
        job = await node.submit(request("gate", *["echo"] * 20))
        for _ in range(5):
            tasks.start_soon(node.wait, [job.id])
        await until(lambda: store.calls["get"] == 5)
        others = await node.submit_many([request()] * 20)
        await until(lambda: node.in_flight == 1 and store.calls["save"] >= len(others))
        gate.opened.set()
    assert store.calls["get"] == 10  # each once at the beginning, and once at the end


async def test_waiting_for_finished_or_unknown_jobs_returns_at_once() -> None:
    async with make_node() as node:
        job = await node.submit(request())
        with anyio.fail_after(60):
            await node.wait([job.id])
            (again,) = await node.wait([job.id, "unknown", job.id])
            assert again.status is JobStatus.SUCCESS
            assert await node.wait([]) == []


async def test_giving_up_waiting_leaves_the_job_alone() -> None:
    gate = Gate()
    async with make_node(functions(gate=gate)) as node:
        job = await node.submit(request("gate"))
        with anyio.move_on_after(0.05) as patience:
            await node.wait([job.id])
        assert patience.cancelled_caught
        gate.opened.set()
        assert [done.status for done in await node.wait([job.id])] == [JobStatus.SUCCESS]


# -- cancel -------------------------------------------------------------------------------------------


async def test_a_queued_job_is_cancelled_before_it_runs() -> None:
    gate = Gate()
    async with make_node(functions(gate=gate), concurrency=1) as node:
        first, queued = [await node.submit(request("gate")) for _ in range(2)]
        await until(lambda: gate.running == 1)
        cancelled = await node.cancel(queued.id)
        assert (cancelled.status, cancelled.error.error) == (JobStatus.CANCELLED, "cancelled")
        assert cancelled.error.container == "gate"
        gate.opened.set()
        await node.wait([first.id, queued.id])
        await settle_down()
    assert gate.calls == 1


async def test_a_running_job_is_cancelled_in_the_middle_of_its_step() -> None:
    gate = Gate()
    async with make_node(functions(gate=gate), concurrency=1) as node:
        job = await node.submit(request("echo", "gate", "echo", n=1))
        await until(lambda: gate.running == 1)
        cancelled = await node.cancel(job.id)
        assert cancelled.status is JobStatus.CANCELLED
        await until(lambda: gate.cancelled == 1)
        assert [result.container for result in cancelled.intermediate_results] == ["echo"]
        assert (await node.pending()).total == 0
        (after,) = await node.wait([(await node.submit(request())).id])  # its slot is free again
        assert after.status is JobStatus.SUCCESS
        assert (await node.fetch([job.id])) == [cancelled]


async def test_cancelling_a_finished_job_changes_nothing_and_an_unknown_one_is_none() -> None:
    async with make_node() as node:
        (done,) = await node.wait([(await node.submit(request())).id])
        assert await node.cancel(done.id) == done
        assert await node.cancel("unknown") is None


# -- refusals -----------------------------------------------------------------------------------------


async def test_refusals_come_in_the_order_pipeline_containers_guards() -> None:
    class Picky:
        async def nodekit_admit(self, request: JobRequest) -> None:
            raise Refusal("the guard objects", by="guard")

    nothing = JobRequest.of(data={})
    async with make_node(plugins=[Picky()]) as node:
        asked = [replace(nothing, pipeline="other"), nothing, request("echo", "unknown"), request()]
        answers = await node.submit_many(asked)
        assert [str(answer) for answer in answers] == [
            "Pipeline not supported (pipeline='other')",
            "No containers specified",
            "Container not supported (container='unknown')",
            "the guard objects (by='guard')",
        ]
        assert await node.find() == []


async def test_a_guard_that_breaks_refuses_and_says_nothing_of_its_inside() -> None:
    class Broken:
        async def nodekit_admit(self) -> None:
            raise KeyError("secret inside")

    async with make_node(plugins=[Broken()]) as node:
        with pytest.raises(Refusal) as refused:
            await node.submit(request())
    assert "secret" not in refused.value.reason + str(refused.value.params)


# -- drain --------------------------------------------------------------------------------------------


async def test_while_draining_nothing_is_accepted_but_reads_and_waiters_are_served() -> None:
    gate = Gate()
    seen: dict[str, Any] = {}
    async with anyio.create_task_group() as tasks:
        async with make_node(functions(gate=gate)) as node:
            job = await node.submit(request("gate"))
            await until(lambda: gate.running)

            async def look_in() -> None:
                await until(lambda: node._executor._draining)
                with pytest.raises(Unavailable) as unavailable:
                    await node.submit(request())
                seen["reason"] = unavailable.value.reason
                seen["fetched"] = [found.status for found in await node.fetch([job.id])]
                async with anyio.create_task_group() as inner:
                    inner.start_soon(wait)
                    await settle_down()
                    gate.opened.set()

            async def wait() -> None:
                seen["waited"] = [done.status for done in await node.wait([job.id])]

            tasks.start_soon(look_in)
        await until(lambda: "waited" in seen)
    assert "draining" in seen["reason"]
    assert seen["fetched"][0] in UNFINISHED
    assert seen["waited"] == [JobStatus.SUCCESS]


async def test_queued_jobs_are_not_started_while_draining() -> None:
    table, gate = MemoryTable(), Gate()
    async with anyio.create_task_group() as tasks:
        async with make_node(functions(gate=gate), store=EmbeddedStore(table), concurrency=1) as node:
            for _ in range(3):
                await node.submit(request("gate"))
            await until(lambda: gate.running)

            async def open_later() -> None:
                await until(lambda: node._executor._draining)
                gate.opened.set()

            tasks.start_soon(open_later)
    assert gate.calls == 1
    assert len(await table.unfinished()) == 2


# -- ids ----------------------------------------------------------------------------------------------


async def test_ids_keep_increasing_when_the_clock_went_back_before_a_restart() -> None:
    table, last = MemoryTable(), "07000000-0000-7000-8000-000000000000"  # of a time that is far away
    await table.add([succeeded(make_job("echo", id=last))])
    async with make_node(store=EmbeddedStore(table)) as node:
        job = await node.submit(request())
        assert last < job.id < (await node.submit(request())).id


# -- lifespan -----------------------------------------------------------------------------------------


class Held:
    def __init__(self, name: str, log: list[str], *, fails: bool = False) -> None:
        self.name, self.log, self.fails = name, log, fails

    @asynccontextmanager
    async def nodekit_lifespan(self, node: Any) -> AsyncIterator[None]:
        if self.fails:
            raise RuntimeError(f"{self.name} does not open")
        self.log.append(f"+{self.name}")
        try:
            yield
        finally:
            self.log.append(f"-{self.name}")


async def test_lifespans_are_entered_in_order_and_left_in_reverse_inside_the_runners() -> None:
    log: list[str] = []

    class LoggedRunner(SwitchRunner):
        async def __aenter__(self) -> SwitchRunner:
            log.append("+runner")
            return self

        async def __aexit__(self, *error: Any) -> None:
            log.append("-runner")

    async with make_node(LoggedRunner(Container(id="c")), plugins=[Held("a", log), Held("b", log)]):
        assert log == ["+runner", "+a", "+b"]
    assert log == ["+runner", "+a", "+b", "-b", "-a", "-runner"]


async def test_a_failing_lifespan_stops_the_start_and_closes_what_was_opened() -> None:
    log: list[str] = []
    runner, store = SwitchRunner(Container(id="c")), SpiedStore()
    node = make_node(runner, store=store, plugins=[Held("a", log), Held("b", log, fails=True), Held("c", log)])
    with pytest.raises(RuntimeError, match="b does not open"):
        async with node:
            raise AssertionError("it must not start")
    assert log == ["+a", "-a"]
    assert runner.life == ["entered", "left"]
    assert store.life == ["entered", "left"]


async def test_a_failing_runner_stops_the_start_and_closes_what_was_opened() -> None:
    first = SwitchRunner(Container(id="a"))
    second = SwitchRunner(Container(id="b"), on_enter=RuntimeError("no engine"))
    store = SpiedStore()
    with pytest.raises(RuntimeError, match="no engine"):
        async with make_node(first, second, store=store):
            raise AssertionError("it must not start")
    assert (first.life, second.life, store.life) == (["entered", "left"], [], ["entered", "left"])


@pytest.mark.parametrize("error", [OSError("address in use"), NodekitError("address in use")], ids=repr)
async def test_a_failing_transport_stops_the_start_and_closes_what_was_opened(error: Exception) -> None:
    class Deaf:
        async def serve(self, node: Any, *, task_status: Any) -> None:
            raise error

    runner, store = SwitchRunner(Container(id="a")), SpiedStore()
    with pytest.raises(type(error), match="address in use"):
        async with make_node(runner, store=store, transports=[Deaf()]):
            raise AssertionError("it must not start")
    assert (runner.life, store.life) == (["entered", "left"], ["entered", "left"])


async def test_a_node_runs_once() -> None:
    node = make_node()
    async with node:
        pass
    with pytest.raises(NodekitError, match="runs once"):
        async with node:
            pass


async def test_composing_acquires_nothing() -> None:
    runner, store = SwitchRunner(Container(id="a")), SpiedStore()
    make_node(runner, store=store)
    assert (runner.life, store.life, dict(store.calls)) == ([], [], {})


async def test_two_nodes_in_one_process_share_nothing() -> None:
    told, gates = [Told(), Told()], [Gate(), Gate()]
    async with make_node(functions(gate=gates[0]), plugins=[told[0]], concurrency=1, max_pending=1) as one:
        async with make_node(functions(gate=gates[1], only_two=gates[1]), plugins=[told[1]], concurrency=1) as two:
            mine = await one.submit(request("gate"))
            await until(lambda: gates[0].running)
            theirs = await two.submit(request("echo"))
            assert [job.status for job in await two.wait([theirs.id])] == [JobStatus.SUCCESS]
            assert await two.fetch([mine.id]) == await one.fetch([theirs.id]) == []
            assert "only_two" not in one.containers
            await until(told[1].ends)
        assert told[0].kinds == [JobAccepted]
        gates[0].opened.set()
        assert [job.status for job in await one.wait([mine.id])] == [JobStatus.SUCCESS]
    assert gates[1].calls == 0


# -- health -------------------------------------------------------------------------------------------


async def test_health_tells_partial_problems_from_fatal_ones() -> None:
    runner = SwitchRunner(Container(id="a"), Container(id="b"), up=["a"])
    async with make_node(runner) as node:
        health = await node.health()
        assert (health.healthy, list(health.reasons)) == (True, ["container b is down"])
        runner.switch()
        health = await node.health()
        assert not health.healthy
        assert "no container is running" in health.reasons


async def test_a_store_that_cannot_be_read_is_not_healthy() -> None:
    store = SpiedStore()
    async with make_node(store=store) as node:
        store.failures["find"] = 1
        health = await node.health()
        assert not health.healthy
        assert "disk is full" in health.reasons[0]
        assert (await node.health()).healthy


async def test_an_error_of_the_caller_leaves_the_lifespan_as_it_is() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with Node(store=MemoryStore(), runners=[]):
            raise KeyError("mine")


async def test_waiting_outside_the_lifespan_is_an_error_instead_of_for_ever() -> None:
    await (table := MemoryTable()).add([job := make_job()])
    node = Node(store=EmbeddedStore(table), runners=[])
    with anyio.fail_after(60), pytest.raises(NodekitError, match="not running"):
        await node.wait([job.id])


async def test_a_waiter_is_told_when_the_node_stops() -> None:
    told: list[str] = []

    async def wait(node: Node, id: str) -> None:
        try:
            await node.wait([id])
        except NodekitError as error:
            told.append(str(error))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            async with make_node(functions(gate=Gate()), drain_seconds=0) as node:
                job = await node.submit(request("gate"))
                tasks.start_soon(wait, node, job.id)
                await settle_down()
    assert told == ["the node is not running; nothing will change"]


async def test_of_many_cancels_at_once_one_is_told_as_the_end() -> None:
    told = Told()
    async with make_node(functions(gate=Gate()), plugins=[told], drain_seconds=0) as node:
        job = await node.submit(request("gate"))
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(node.cancel, job.id)
    assert len(told.ends()) == 1


async def test_a_store_is_entered_once() -> None:
    store = MemoryStore()
    async with Node(store=store, runners=[]):
        pass
    with pytest.raises(StoreFailed, match="once"):
        async with Node(store=store, runners=[]):
            raise AssertionError("not reached")
