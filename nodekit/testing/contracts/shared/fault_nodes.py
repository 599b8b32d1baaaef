"""Whole nodes whose engine fails for a while."""

from collections import Counter
from collections.abc import Callable

import anyio
import pytest

from nodekit import Event, JobFinished, JobId, Node
from nodekit.testing.contracts.bounds import within
from nodekit.testing.contracts.shared.base import POLL_SECONDS, Open
from nodekit.testing.contracts.shared.counting import CountingRunner
from nodekit.testing.contracts.shared.fault_base import FAULTS, LONG, READ_ONLY, Breaking, FaultBase
from nodekit.testing.contracts.shared.nodes import SharedNodes

JOBS = 30


class _Ends:
    """A plugin of all nodes that counts the ends of each job."""

    def __init__(self) -> None:
        self.counted: Counter[JobId] = Counter()

    def nodekit_observe(self, event: Event) -> None:
        if isinstance(event, JobFinished):
            self.counted[event.job.id] += 1


class FaultNodes(FaultBase, SharedNodes):
    """Tests of `EngineFaultContract` about whole nodes."""

    @pytest.mark.parametrize("fault", FAULTS)
    async def test_nodes_finish_all_jobs_once_though_the_engine_fails_for_a_while(
        self, open_store: Open, open_far: Open, breaking: Breaking, fault: str
    ) -> None:
        ends, half = _Ends(), JOBS // 2
        here, there = (CountingRunner(name, held=["reverse"]) for name in ("near", "far"))
        async with (
            self.node(open_store(), here, plugins=[ends], concurrency=half) as near,
            self.node(open_far(), there, plugins=[ends], concurrency=half) as far,
        ):
            ids = [id for node in (near, far) for id in await self.submitted(node, half, "echo", "reverse")]
            await self.called(here, half, index=1)
            await self.called(there, half, index=1)
            async with breaking(fault):
                for runner in (here, there):
                    await runner.open()
                if fault in LONG:
                    await self._reports(far, "something is wrong", lambda healthy, reasons: not healthy or reasons)
                await self.lasts(fault, leases=0.2)
            jobs = await self.finished(near, ids)
            await self._is_well_again(far)
            assert await near.fetch(ids) == sorted(jobs, key=lambda job: ids.index(job.id))
        assert max(ends.counted.values()) == 1, "the end of a job was reported twice"

    async def _reports(self, node: Node, what: str, expected: Callable[[bool, bool], bool]) -> None:
        """Wait until the health of a node is as expected: that it is healthy, and that there are reasons."""
        with within(self.few_leases, f"`health` reports that {what}"):
            while True:
                health = await node.health()
                if expected(health.healthy, bool(health.reasons)):
                    return
                await anyio.sleep(POLL_SECONDS)

    async def _is_well_again(self, node: Node) -> None:
        """Give the node jobs until it reports that nothing is wrong: a call that failed and waits now may need one."""
        with within(2 * self.few_leases, "`health` reports that all is well again"):
            while (health := await node.health()).reasons or not health.healthy:
                await self.submitted(node, 2, "echo")
                await anyio.sleep(self.lease_seconds / 5)

    @READ_ONLY
    async def test_a_result_that_cannot_be_written_is_kept_and_its_step_is_called_once(
        self, open_store: Open, breaking: Breaking, fault: str
    ) -> None:
        runner = CountingRunner("one", held=["echo"])
        async with self.node(open_store(), runner) as node:
            ids = await self.submitted(node, 5, "echo", "reverse")
            await self.called(runner, 5, index=0)
            async with breaking(fault):
                await runner.open()
                await self._reports(node, "results cannot be kept", lambda healthy, _: not healthy)
            await self.finished(node, ids)
        assert runner.calls == {(id, index): 1 for id in ids for index in (0, 1)}
