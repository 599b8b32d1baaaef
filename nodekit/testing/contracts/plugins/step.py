"""Promises of a plugin around steps: `nodekit_step`."""

from collections.abc import Sequence
from typing import Any

import anyio
from msgspec.structs import replace

from nodekit import ContainerOutput, Job, JobRequest, JobStatus, Location
from nodekit.testing.builders.components import make_function_runner, make_node
from nodekit.testing.builders.jobs import make_request
from nodekit.testing.contracts.failure_messages import shown
from nodekit.testing.contracts.plugins.hostile import HOSTILE_PAYLOADS
from nodekit.testing.contracts.plugins.plugin import PluginContract, nothing_fails
from nodekit.testing.leaks.detectors import unblocked_loop


class StepContract(PluginContract):
    """Suite of a plugin that implements `nodekit_step`. Define the fixture `plugin`; override `requests` if needed."""

    def requests(self) -> Sequence[JobRequest]:
        """Return requests of jobs that succeed with the plugin."""
        return [make_request("echo"), make_request("echo", "echo")]

    async def test_outputs_of_containers_come_through(self, plugin: Any) -> None:
        with nothing_fails():
            async with self.running(plugin) as node:
                for request in self.requests():
                    job = await self.finished(node, request)
                    assert isinstance(job.result, ContainerOutput), f"{shown(request)} failed: {job.result}"
                    assert len(job.steps) == len(request.containers)

    async def test_a_container_that_fails_fails_its_step_or_is_answered_for(self, plugin: Any) -> None:
        with nothing_fails():
            async with self.running(plugin) as node:
                job = await self.finished(node, make_request("fail"))
        assert job.error is None or job.error.kind != "internal", f"let `ContainerFailed` pass: {job.error}"

    async def test_a_job_that_is_cancelled_ends_its_call(self, plugin: Any) -> None:
        with nothing_fails():
            async with self.running(plugin) as node:
                job = await node.submit(make_request("slow"))
                await anyio.sleep(0.1)
                await node.cancel(job.id)
                with anyio.fail_after(self.timeout_seconds):
                    while node.in_flight:  # noqa: ASYNC110 - nothing reports it
                        await anyio.sleep(0.01)

    async def test_a_step_whose_time_is_over_ends(self, plugin: Any) -> None:
        hasty = [replace(one, timeout_seconds=0.3) if one.id == "slow" else one for one in self.containers()]
        with nothing_fails(), anyio.fail_after(self.timeout_seconds):
            async with make_node(runners=[make_function_runner(hasty)], plugins=[plugin]) as node:
                job = await self.finished(node, make_request("slow"))
        assert job.error is None or job.error.kind == "timeout", f"let the cancellation pass: {job.error}"

    async def test_a_stream_comes_through(self, plugin: Any) -> None:
        with nothing_fails():
            async with self.running(plugin) as node:
                request = replace(self.requests()[0], destination=Location.STREAM)
                async with node.stream(request) as stream:
                    pieces = [piece async for piece in stream]
        assert stream.job.status is JobStatus.SUCCESS
        assert b"".join(pieces), "nothing of the stream was sent on"

    async def test_steps_that_run_at_once_do_not_meet(self, plugin: Any) -> None:
        with nothing_fails():
            async with self.running(plugin) as node, unblocked_loop():
                requests = [*self.requests()] * 10
                jobs = [job for job in await node.submit_many(requests) if isinstance(job, Job)]
                done = await node.wait([job.id for job in jobs])
        assert {job.status for job in done} == {JobStatus.SUCCESS}
        assert [[step.container for step in job.steps] for job in done] == [[*one.containers] for one in requests]

    async def test_whatever_containers_answer_it_lets_through_or_fails_the_step(self, plugin: Any) -> None:
        with nothing_fails():
            async with self.running(plugin) as node:
                for data in HOSTILE_PAYLOADS:
                    await self.finished(node, replace(make_request("echo"), data=data))
