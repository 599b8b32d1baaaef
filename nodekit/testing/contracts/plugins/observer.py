"""Promises of an observer: a plugin that receives events by `nodekit_observe`."""

import tracemalloc
from collections.abc import Sequence
from typing import Any

import anyio
import msgspec
import pytest

from nodekit import (
    ContainerError,
    Event,
    Job,
    JobAccepted,
    JobFinished,
    JobStatus,
    KeyReused,
    Node,
    Outcome,
    Refusal,
    RequestRefused,
    StepFinished,
    StepStarted,
    TooManyRequests,
)
from nodekit.testing.builders.components import make_function_runner, make_node
from nodekit.testing.builders.jobs import make_attempt, make_job, make_request, make_step, succeeded, with_output
from nodekit.testing.contracts.plugins.plugin import PluginContract, call_hook, nothing_fails
from nodekit.testing.leaks.detectors import unblocked_loop


class SomethingNew(msgspec.Struct, frozen=True):
    """An event that a later version of nodekit may emit."""

    what: str = "nobody knows yet"


class ObserverContract(PluginContract):
    """Suite of an observer. Define the fixture `observer`: a new instance each time it is requested."""

    kept_bytes: int = 4 << 20
    """Maximum number of bytes that it may retain of 20 MB of events."""

    @pytest.fixture
    def observer(self) -> Any:
        raise NotImplementedError("define a fixture `observer` that gives a new instance of your observer")

    @pytest.fixture
    def plugin(self, observer: Any) -> Any:
        return observer

    def send(self, observer: Any, event: Any, node: Node) -> Exception | None:
        """Emit an event to the observer as a node does. Return the error that it raises, or None."""
        assert hasattr(observer, "nodekit_observe"), "it has no nodekit_observe"
        try:
            call_hook(observer.nodekit_observe, event=event, node=node)
        except Exception as error:
            return error
        return None

    async def lives(self, node: Node) -> Sequence[Job]:
        """Run jobs that succeed, fail and are cancelled, and return them finished."""
        done = [
            await self.finished(node, make_request(*ids)) for ids in (("echo",), ("echo", "echo"), ("echo", "fail"))
        ]
        slow = await node.submit(make_request("slow"))
        await anyio.sleep(0.02)
        cancelled = await node.cancel(slow.id)
        assert cancelled is not None
        return [*done, cancelled]

    async def test_it_observes_jobs_that_succeed_fail_and_are_cancelled(self, observer: Any) -> None:
        with nothing_fails():
            async with self.running(observer) as node:
                await self.lives(node)

    async def test_jobs_go_on_as_without_it(self, observer: Any) -> None:
        async with make_node(runners=[make_function_runner(self.containers())]) as node:
            expected = [_shape(job) for job in await self.lives(node)]
        async with self.running(observer) as node:
            assert [_shape(job) for job in await self.lives(node)] == expected

    async def test_it_accepts_every_kind_of_event(self, observer: Any) -> None:
        async with self.running(observer) as node:
            for event in _events():
                error = self.send(observer, event, node)
                assert error is None, f"it raised {error!r} when it received {_described(event)}"

    async def test_events_that_it_does_not_know_are_nothing_to_it(self, observer: Any) -> None:
        async with self.running(observer) as node:
            error = self.send(observer, SomethingNew(), node)
            assert error is None, (
                f"it raised {error!r} when it received an unknown event; check the type of an event before using it"
            )

    async def test_receiving_events_does_not_block(self, observer: Any) -> None:
        """A node waits for each observer, so the events of a hundred jobs must take less than a moment."""
        async with self.running(observer) as node, unblocked_loop():
            for _ in range(100):
                for event in _events():
                    self.send(observer, event, node)
            await anyio.sleep(0.01)

    async def test_it_does_not_keep_the_events_that_it_received(self, observer: Any) -> None:
        async with self.running(observer) as node:
            tracemalloc.start()
            try:
                for number in range(200):
                    self.send(observer, JobAccepted(make_job(data={"number": number, "text": "x" * 100_000})), node)
                    await anyio.lowlevel.checkpoint()
                held, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert held < self.kept_bytes, f"it keeps {held >> 20} MB of the events that it received"

    @pytest.mark.parametrize("instance", ["first", "second"])
    async def test_a_new_one_can_follow_in_the_same_process(self, observer: Any, instance: str) -> None:
        with nothing_fails():
            async with self.running(observer) as node:
                assert (await self.finished(node, make_request("echo"))).status is JobStatus.SUCCESS, instance


def _shape(job: Job) -> Any:
    return job.status, job.error, [(step.container, len(step.attempts), type(step.result)) for step in job.steps]


def _described(event: Event) -> str:
    if isinstance(event, RequestRefused):
        return f"{type(event).__name__}, with {event.objection!r}"
    return f"{type(event).__name__} of a job that is {event.job.status} and has {len(event.job.results)} results"


def _events() -> Sequence[Event]:
    """Return an event of each kind, and of jobs with each outcome."""
    new = make_job("echo", "fail")
    going_on = with_output(new, due="fail")
    error = ContainerError(container="fail", error="it failed", kind="status")
    failing = going_on.with_result(error, make_attempt(kind="status", failure="it failed"))
    return [
        JobAccepted(new),
        StepStarted(new, make_step("echo")),
        StepFinished(going_on, 0),
        StepFinished(failing, 1),
        JobFinished(failing.finished(Outcome(JobStatus.FAILED), 1.0)),
        JobFinished(succeeded(make_job())),
        JobFinished(make_job().finished(Outcome(JobStatus.CANCELLED), 1.0)),
        JobFinished(make_job().finished(Outcome(JobStatus.SUCCESS), 1.0)),
        RequestRefused("alice", Refusal("Not today", day="Sunday")),
        RequestRefused("alice", TooManyRequests("wait", retry_after_seconds=1)),
        RequestRefused("alice", KeyReused()),
    ]
