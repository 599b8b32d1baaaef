"""Whole nodes on one store: they finish each other's jobs, whatever happens to one of them."""

from collections import Counter
from contextlib import AsyncExitStack
from functools import partial
from typing import Literal

import anyio
import pytest

from nodekit import (
    ClientLimits,
    JobId,
    JobStatus,
    Node,
    Refusal,
    StoreFailed,
    TooManyJobs,
    Unavailable,
)
from nodekit import Sequence as SequencePipeline
from nodekit.testing.builders.jobs import make_request
from nodekit.testing.contracts.shared.base import Open
from nodekit.testing.contracts.shared.clocks import thread_id, wrong_clock
from nodekit.testing.contracts.shared.counting import CountingRunner
from nodekit.testing.contracts.shared.nodes import SharedNodes
from nodekit.testing.faults.injection import Faults

NEIGHBOURS = 60
"""Number of jobs that run on a node beside the one that ends it."""


class Clusters(SharedNodes):
    """Tests of `SharedStoreContract` with whole nodes."""

    async def test_nodes_on_one_store_finish_all_jobs_and_run_each_step_once(self, open_store: Open) -> None:
        runners = [CountingRunner(name) for name in "abc"]
        async with AsyncExitStack() as stack:
            nodes = [await stack.enter_async_context(self.node(open_store(), runner)) for runner in runners]
            ids: list[JobId] = []
            for node in nodes:
                ids += await self.submitted(node, 10, "echo", "reverse")
            assert len(ids) == 30
            for node in nodes:
                await self.finished(node, ids)
            assert (await nodes[0].pending()).total == 0
        calls = sum((runner.calls for runner in runners), Counter[tuple[JobId, int]]())
        assert calls == {(id, index): 1 for id in ids for index in (0, 1)}

    async def test_the_jobs_of_a_node_that_dies_in_the_middle_are_finished_by_the_others(
        self, open_store: Open
    ) -> None:
        dying, living = CountingRunner("dying", held=["reverse"]), CountingRunner("living")
        async with self.place(open_store()) as there:
            node = await there.enter(self.node(there.store, dying))
            ids = await there.call(self.submitted, node, 6, "echo", "reverse")
            await self.called(dying, 6, index=1)
            await there.stand_still()
            async with self.node(open_store(), living) as other:
                jobs = await self.finished(other, ids)
                there.go_on()
                await there.call(dying.open)
                ids_after = await there.call(self.submitted, node, 6, "echo")
                await self.finished(other, ids_after)
                assert await other.fetch(ids) == jobs
        assert living.calls.keys() >= {(id, 1) for id in ids}
        assert not any((id, 0) in living.calls for id in ids)
        instances = [[attempt.instance for step in job.steps for attempt in step.attempts] for job in jobs]
        assert instances == [["dying", "living"]] * 6

    async def test_the_jobs_of_a_node_that_leaves_are_finished_by_the_others(self, open_store: Open) -> None:
        leaving, staying = CountingRunner("leaving", held=["reverse"]), CountingRunner("staying")
        async with self.node(open_store(), leaving) as node:
            ids = await self.submitted(node, 6, "echo", "reverse")
            await self.called(leaving, 6, index=1)
        assert leaving.aborted == 6
        async with self.node(open_store(), staying) as other:
            await self.finished(other, ids)
        assert staying.calls == {(id, 1): 1 for id in ids}

    async def test_a_job_that_is_cancelled_through_another_node_is_aborted_where_it_runs(
        self, open_store: Open
    ) -> None:
        runner = CountingRunner("running", held=["echo"])
        async with self.node(open_store(), runner) as node:
            [id] = await self.submitted(node, 1, "echo")
            await self.called(runner, 1, index=0)
            async with self.node(open_store(), CountingRunner("other")) as other:
                cancelled = await other.cancel(id)
                assert cancelled is not None
                assert cancelled.status is JobStatus.CANCELLED
                with anyio.fail_after(self.timeout_seconds):
                    assert await node.wait([id]) == [cancelled]
                await self.comes("a call is aborted", lambda: runner.aborted == 1)
                assert await other.fetch([id]) == [cancelled]

    async def test_nodes_whose_store_fails_now_and_then_finish_all_jobs(self, open_store: Open) -> None:
        runners = [CountingRunner(name) for name in "ab"]
        async with AsyncExitStack() as stack:
            nodes: list[Node] = []
            for runner in runners:
                faults = Faults()
                failures = [faults.before("save", 1, 4), faults.after("save", 2, 5)]
                for when in failures:
                    when.fail(StoreFailed("the engine does not answer"))
                node = self.node(faults.around(open_store()), runner)
                nodes.append(await stack.enter_async_context(node))
            ids = [id for node in nodes for id in await self.submitted(node, 10, "echo", "reverse")]
            await self.finished(nodes[0], ids)
        calls = sum((runner.calls for runner in runners), Counter[tuple[JobId, int]]())
        assert calls == {(id, index): 1 for id in ids for index in (0, 1)}

    # -- different nodes --------------------------------------------------------------------------

    async def test_each_step_runs_on_the_node_that_has_its_container(self, open_store: Open) -> None:
        runners = [CountingRunner(name, [name]) for name in "abc"]
        async with AsyncExitStack() as stack:
            nodes = [await stack.enter_async_context(self.node(open_store(), runner)) for runner in runners]
            for node in nodes:
                await self.sees(node, "a", "b", "c")
                assert set(node.containers) == {"a", "b", "c"}
            ids = [id for node in nodes for id in await self.submitted(node, 4, "c", "a", "b", "a")]
            for job in await self.finished(nodes[0], ids):
                assert [step.attempts[0].instance for step in job.steps] == ["c", "a", "b", "a"]

    async def test_a_pipeline_runs_only_on_nodes_that_know_it(self, open_store: Open) -> None:
        pipelines = {"mine": SequencePipeline()}
        plain, other = CountingRunner("plain", ["echo", "only"]), CountingRunner("other", ["echo"])
        async with self.node(open_store(), plain) as one, self.node(open_store(), other, pipelines=pipelines) as node:
            await self.sees(node, "echo", "only")
            ids = await self.submitted(node, 6, "echo", "echo", pipeline="mine")
            await self.finished(one, ids)
            assert not plain.calls
            with pytest.raises(Refusal, match="Pipeline not supported"):
                await one.submit(make_request("echo", pipeline="mine"))
            with pytest.raises(Refusal, match="Container not supported"):  # no node has both
                await node.submit(make_request("only", pipeline="mine"))
            await self.finished(one, await self.submitted(node, 1, "only"))

    async def test_a_client_waits_at_one_node_for_a_job_that_another_runs(self, open_store: Open) -> None:
        runner = CountingRunner("running", ["far"], held=["far"])
        asked = CountingRunner("asked", ["near"])
        async with self.node(open_store(), asked) as node, self.node(open_store(), runner) as other:
            await self.sees(node, "near", "far")
            [id] = await self.submitted(node, 1, "near", "far")
            await self.called(runner, 1, index=1)
            held = (await node.held([id]))[id]
            assert (held.node, held.step, held.attempt) == ("running", 1, 1)
            assert set(await other.held([id])) == {id}
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.finished, node, [id])
                await anyio.sleep(self.quiet_seconds)
                await runner.open()
            assert await node.held([id]) == {}

    @pytest.mark.parametrize("when_down", ["wait", "fail"])
    async def test_a_container_that_goes_away_at_one_node_is_called_at_another(
        self, open_store: Open, when_down: Literal["wait", "fail"]
    ) -> None:
        going, staying = (CountingRunner(name, ["echo"], when_down=when_down) for name in ("going", "staying"))
        async with self.node(open_store(), going) as node, self.node(open_store(), staying) as other:
            for one in (node, other):
                await self.eventually(partial(_names, one), {"going", "staying"})
            going.take_down("echo")
            for one in (node, other):
                await self.sees(one, "echo")
            ids = await self.submitted(node, 6, "echo", "echo")
            await self.finished(node, ids)
            assert not going.calls
            assert staying.calls == {(id, index): 1 for id in ids for index in (0, 1)}

    async def test_jobs_for_the_only_node_with_a_container_are_accepted_while_it_restarts(
        self, open_store: Open
    ) -> None:
        async with self.node(open_store(), CountingRunner("front", ["near"])) as front:
            async with self.node(open_store(), CountingRunner("back", ["far"])):
                await self.sees(front, "near", "far")
            await self.sees(front, "near")
            ids = await self.submitted(front, 3, "near", "far")
            async with self.node(open_store(), CountingRunner("later", ["near"])) as later:  # it starts only now
                ids += await self.submitted(later, 3, "far")
            with pytest.raises(Refusal, match="Container not supported"):
                await front.submit(make_request("nowhere"))
            async with self.node(open_store(), CountingRunner("back", ["far"])):
                await self.finished(front, ids)

    async def test_a_stream_runs_on_the_node_that_was_asked_or_names_those_that_can(self, open_store: Open) -> None:
        front, back = CountingRunner("front", ["near"]), CountingRunner("back", ["near", "far"])
        async with self.node(open_store(), front) as node, self.node(open_store(), back):
            await self.sees(node, "near", "far")
            async with node.stream(make_request("near", data={"a": 1})) as pieces:
                assert [piece async for piece in pieces] == [b'{"a":1}']
            with pytest.raises(Unavailable, match=r"container 'far' does not run here; ask a node .*: back"):
                async with node.stream(make_request("near", "far")):
                    pass
            assert (await node.pending()).total == 0

    async def test_the_limit_of_unfinished_jobs_holds_for_all_nodes_together(self, open_store: Open) -> None:
        runners = [CountingRunner(name, ["echo"], held=["echo"]) for name in "ab"]
        each = ClientLimits(max_pending=2)
        async with AsyncExitStack() as stack:
            nodes = [
                await stack.enter_async_context(self.node(open_store(), runner, max_pending=5, each_client=each))
                for runner in runners
            ]
            await self.submitted(nodes[0], 3, "echo")
            await nodes[1].submit(make_request("echo", client="client 1"))
            with pytest.raises(TooManyJobs, match="2 unfinished jobs"):
                await nodes[0].submit(make_request("echo", client="client 1"))
            await nodes[0].submit(make_request("echo", client="another"))
            with pytest.raises(Unavailable, match="5 unfinished jobs"):
                await nodes[1].submit(make_request("echo", client="a third"))

    # -- poison -----------------------------------------------------------------------------------

    async def test_a_job_that_ends_its_nodes_fails_and_those_beside_it_do_not(self, open_store: Open) -> None:
        held = CountingRunner("dying-0", held=["reverse"])
        runners = [held, *(CountingRunner(name, seconds=self.quiet_seconds) for name in ("dying-1", "dying-2"))]
        async with AsyncExitStack() as stack:
            others: list[JobId] = []
            poison: JobId = ""
            for runner in runners:
                there = await stack.enter_async_context(self.place(open_store()))
                runner.die = partial(self.hold, there.store)
                runner.armed.clear()
                node = await there.enter(self.node(there.store, runner))
                stack.callback(runner.revived.set)
                if not others:
                    others = await there.call(self.submitted, node, NEIGHBOURS, "reverse")
                    await self.called(runner, NEIGHBOURS, index=0)
                    submit = partial(self.submitted, node, 1, "echo", data={"poison": 1}, priority=0)
                    [poison] = await there.call(submit)  # later nodes run it before its neighbours
                await self.comes(f"{runner.name} runs the poison", partial(runner.calls.__contains__, (poison, 0)))
                assert runner.calls[poison, 0] == 1
                runner.armed.set()
            living = CountingRunner("living")
            async with self.node(open_store(), living) as node:
                with anyio.fail_after(self.few_leases):
                    [failed] = await node.wait([poison])
                assert failed.error is not None
                assert failed.error.kind == "poison"
                assert "3 times in a row" in failed.error.error
                await self.finished(node, others)
                assert (poison, 0) not in living.calls
                assert len([one for one in await node.members() if one.live]) == 1

    # -- clocks -----------------------------------------------------------------------------------

    async def test_ids_and_times_of_nodes_with_wrong_clocks_follow_the_engine(self, open_store: Open) -> None:
        async with AsyncExitStack() as stack:
            wrong = [stack.enter_context(wrong_clock(seconds)) for seconds in (0, 3600.0, -3600.0)]
            places = [await stack.enter_async_context(self.place(open_store())) for _ in wrong]
            for place, threads in zip(places, wrong, strict=True):
                threads.add(await place.call(thread_id))
            nodes: list[Node] = []
            for number, place in enumerate(places):
                nodes.append(await place.enter(self.node(place.store, CountingRunner(f"node-{number}"))))
            ids: list[JobId] = []
            for _ in range(3):
                for place, node in zip(places, nodes, strict=True):
                    ids += await place.call(self.submitted, node, 1, "echo")
                    await anyio.sleep(self.quiet_seconds)
            assert ids == sorted(ids)
            jobs = await places[0].call(self.finished, nodes[0], ids)
            times = [time for job in jobs for time in (job.accepted_at, job.finished_at or 0)]
            now = await places[0].call(places[0].store.now)
            assert all(now - 60 < time < now + 1 for time in times)
            for place, node, said in zip(places, nodes, (None, "ahead of", "behind"), strict=True):
                reasons = " ".join((await place.call(node.health)).reasons)
                assert (said is None) == ("this machine's clock is" not in reasons)
                assert (said or "") in reasons


async def _names(node: Node) -> set[str]:
    """Return the names of the live nodes, as a node knows them."""
    return {member.announcement.name for member in await node.members() if member.live}
