"""Helpers for whole nodes on a shared store."""

from collections.abc import Mapping, Sequence
from typing import Any

import anyio

from nodekit import ContainerId, Job, JobId, JobStatus, Node, NodeLimits, Pipeline, SharedStore
from nodekit.testing.builders.jobs import make_request
from nodekit.testing.contracts.shared.base import SharedBase
from nodekit.testing.contracts.shared.counting import CountingRunner


class SharedNodes(SharedBase):
    """Base of the tests of whole nodes."""

    def node(
        self,
        store: SharedStore,
        runner: CountingRunner,
        *,
        pipelines: Mapping[str, Pipeline] = {},
        plugins: Sequence[object] = (),
        **limits: Any,
    ) -> Node:
        """Make a node that drains for no time when it is left."""
        limits = {"drain_seconds": 0, **limits}
        return Node(
            store=store,
            runners=[runner],
            plugins=plugins,
            name=runner.name,
            pipelines=pipelines,
            limits=NodeLimits(**limits),
        )

    async def sees(self, node: Node, *containers: ContainerId) -> None:
        """Wait until a node knows that exactly these containers can be called."""
        await self.comes(
            f"the node knows where {', '.join(containers)} run", lambda: set(node.running()) == set(containers)
        )

    async def submitted(self, node: Node, count: int, *containers: ContainerId, **fields: Any) -> list[JobId]:
        """Submit jobs, and assert that all are accepted."""
        fields = {"data": {"number": 1}, **fields}
        requests = [make_request(*containers, client=f"client {n % 3}", **fields) for n in range(count)]
        answers = await node.submit_many(requests)
        assert [answer for answer in answers if not isinstance(answer, Job)] == []
        return [answer.id for answer in answers if isinstance(answer, Job)]

    async def finished(self, node: Node, ids: Sequence[JobId]) -> list[Job]:
        """Wait until the jobs are finished, assert that all succeeded and each step ran once, and return them."""
        with anyio.fail_after(3 * self.few_leases):  # writes that failed are tried again after pauses of up to 5 s
            jobs = await node.wait(ids)
        assert sorted(job.id for job in jobs) == sorted(ids)
        for job in jobs:
            assert job.status is JobStatus.SUCCESS
            assert [step.container for step in job.steps] == list(job.request.containers)
            whole = [[one for one in step.attempts if one.kind != "interrupted"] for step in job.steps]
            assert all(len(attempts) == 1 for attempts in whole)
            assert all(step.result is not None for step in job.steps)
            assert job.result is not None
        return jobs

    async def called(self, runner: CountingRunner, count: int, index: int) -> None:
        """Wait until `count` jobs are in the step with this index."""
        what = f"{count} jobs are in their step {index}"
        await self.comes(what, lambda: sum(at == index for _, at in list(runner.calls)) == count)
