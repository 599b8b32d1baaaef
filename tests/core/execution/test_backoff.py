"""Retries: which failures, how often, after which delay. A job that waits for a retry delays no other."""

import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from chance import SEED, given
from components import SpiedStore, SwitchRunner, functions, make_node, request, until
from hypothesis import strategies as st
from msgspec.structs import replace

from nodekit import (
    Container,
    ContainerError,
    ContainerFailed,
    ContainerOutput,
    EmbeddedStore,
    FailureKind,
    Job,
    JobStatus,
    Retry,
    Sequence,
    Step,
    encode_payload,
)
from nodekit.execution.backoff import delay_before_retry
from nodekit.testing import VirtualClock
from nodekit_memory import MemoryTable
from nodekit_sqlite import SqliteStore

pytestmark = pytest.mark.anyio

HOUR = 3600.0


def error(kind: FailureKind, status: int | None = None) -> ContainerError:
    return ContainerError(container="x", error="failed", kind=kind, status=status)


# -- the decision -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failed", "tried_again"),
    [
        (error("connection"), True),
        (error("timeout"), True),
        (error("died"), True),
        *((error("status", status), True) for status in (408, 425, 429, 500, 502, 503, 504)),
        *((error("status", status), False) for status in (301, 400, 401, 403, 404, 409, 422, 499, 501, 505)),
        (error("not_json", 200), False),
        (error("too_large", 200), False),
        (error("internal"), False),
        (error("cancelled"), False),
        (error("job_timeout"), False),
        (error("queue_timeout"), False),
    ],
    ids=lambda value: f"{value.kind}-{value.status}" if isinstance(value, ContainerError) else None,
)
def test_what_may_pass_is_tried_again_and_what_is_the_clients_fault_is_not(
    failed: ContainerError, tried_again: bool
) -> None:
    assert (delay_before_retry(Retry(attempts=2), 1, failed, None, random.random) is not None) is tried_again
    assert delay_before_retry(Retry(), 1, failed, None, random.random) is None  # one attempt by default


def test_what_is_tried_again_can_be_listed() -> None:
    retry = Retry(attempts=2, failures=("died",), statuses=(404,))
    for failed, tried_again in (
        (error("died"), True),
        (error("status", 404), True),
        (error("connection"), False),
        (error("status", 503), False),
    ):
        assert (delay_before_retry(retry, 1, failed, None, random.random) is not None) is tried_again


@given(st.integers(1, 10**6), st.floats(0, 1000), st.floats(0, 1000))
def test_pauses_grow_up_to_a_limit(attempt: int, first: float, longest: float) -> None:
    retry = Retry(attempts=10**7, first_delay_seconds=first, longest_delay_seconds=longest)
    delay = delay_before_retry(retry, attempt, error("died"), None, random.random)
    assert delay is not None
    assert 0 <= delay <= min(first * 2.0 ** min(attempt - 1, 1000), longest)


def test_pauses_are_spread_over_the_whole_of_their_length() -> None:
    retry = Retry(attempts=9, first_delay_seconds=1, longest_delay_seconds=60)
    draw = random.Random(SEED).random
    delays = [delay_before_retry(retry, 4, error("died"), None, draw) or 0 for _ in range(1000)]
    assert min(delays) < 1
    assert max(delays) > 7
    assert 3 < sum(delays) / len(delays) < 5


def test_no_pause_is_shorter_than_what_the_container_asked_for() -> None:
    retry = Retry(attempts=9, longest_delay_seconds=5, longest_retry_after_seconds=100)
    assert delay_before_retry(retry, 1, error("status", 503), 50.0, random.random) == 50
    assert delay_before_retry(retry, 1, error("status", 503), 101.0, random.random) is None


# -- in a node ----------------------------------------------------------------------------------------


class Fails:
    """A container that raises the given failures, then returns its input."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.calls = 0

    async def __call__(self, data: Any) -> Any:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return data


def failures(count: int, **more: Any) -> list[ContainerFailed]:
    return [ContainerFailed("status", "HTTP status 503", status=503, **more) for _ in range(count)]


def retrying(function: Callable[[Any], Awaitable[Any]], **retry: Any) -> Any:
    return functions({"x": {"retry": Retry(**{"attempts": 3, "first_delay_seconds": 0, **retry})}}, x=function)


async def ended(node: Any, job: Job) -> Job:
    with anyio.fail_after(60):
        [job] = await node.wait([job.id])
        return job


async def test_a_step_is_tried_until_it_succeeds_and_its_attempts_stand_in_the_history() -> None:
    x = Fails(*failures(2))
    async with make_node(retrying(x)) as node:
        job = await ended(node, await node.submit(request("echo", "x", "echo", number=1)))
    assert (job.status, x.calls) == (JobStatus.SUCCESS, 3)
    assert [len(step.attempts) for step in job.steps] == [1, 3, 1]
    attempts = job.steps[1].attempts
    assert [(a.kind, a.failure, a.status) for a in attempts[:2]] == [("status", "HTTP status 503", 503)] * 2
    assert (attempts[2].kind, attempts[2].failure, attempts[2].instance) == (None, None, "function")
    assert attempts[0].finished_at <= attempts[1].started_at


async def test_after_the_last_attempt_the_job_fails_with_what_that_one_failed_with() -> None:
    x = Fails(*failures(2), ContainerFailed("died", "the third time"))
    async with make_node(retrying(x)) as node:
        job = await ended(node, await node.submit(request("x")))
    assert (job.status, x.calls, len(job.steps[0].attempts)) == (JobStatus.FAILED, 3, 3)
    assert isinstance(job.result, ContainerError)
    assert (job.result.kind, job.result.error) == ("died", "the third time")


async def test_every_attempt_has_its_number_and_all_share_one_idempotency_key() -> None:
    async def run(step: Step) -> ContainerOutput:
        if step.attempt < 3:
            raise ContainerFailed("died", "again")
        return ContainerOutput(container=step.container, output=encode_payload({}))

    runner = SwitchRunner(Container(id="x", retry=Retry(attempts=3, first_delay_seconds=0)), run=run)
    async with make_node(runner) as node:
        await ended(node, await node.submit(request("x")))
    assert [step.attempt for step in runner.steps] == [1, 2, 3]
    assert len({step.idempotency_key for step in runner.steps}) == 1


async def test_a_job_that_waits_to_be_tried_again_holds_no_slot(clock: VirtualClock) -> None:
    x = Fails(*failures(1, retry_after=HOUR))
    async with make_node(retrying(x), concurrency=1) as node:
        waiting = await node.submit(request("x"))
        await until(lambda: x.calls == 1)
        assert (await ended(node, await node.submit(request("echo")))).status is JobStatus.SUCCESS
        await clock.advance(HOUR - 1)
        [job] = await node.fetch([waiting.id])
        assert (job.status, x.calls) == (JobStatus.RUNNING, 1)
        assert (await node.pending()).total == 1
        await clock.advance(2)
        assert (await ended(node, waiting)).status is JobStatus.SUCCESS


async def test_a_job_that_waits_to_be_tried_again_can_be_cancelled(clock: VirtualClock) -> None:
    x = Fails(*failures(1, retry_after=HOUR))
    async with make_node(retrying(x)) as node:
        waiting = await node.submit(request("x"))
        await until(lambda: x.calls == 1)
        await until(lambda: not node._executor.running)
        job = await node.cancel(waiting.id)
        assert job.status is JobStatus.CANCELLED
        await clock.advance(2 * HOUR)
        assert x.calls == 1
        assert await node.fetch([job.id]) == [job]


@pytest.mark.parametrize("store", ["memory", "sqlite"])
@pytest.mark.parametrize("jump", [0.0, -86_400.0])
async def test_a_pause_survives_a_restart_and_a_clock_set_back_does_not_lengthen_it(
    clock: VirtualClock, tmp_path: Path, store: str, jump: float
) -> None:
    table = MemoryTable()

    def open_store() -> EmbeddedStore:
        return EmbeddedStore(table) if store == "memory" else SqliteStore(tmp_path / "jobs.db")

    x = Fails(*failures(1, retry_after=1000.0))
    async with make_node(retrying(x), store=open_store()) as node:
        job = await node.submit(request("x"))
        await until(lambda: x.calls == 1)
        await until(lambda: not node._executor.running)
    clock.jump(jump)
    async with make_node(retrying(x), store=open_store()) as node:
        await clock.advance(990)
        assert x.calls == 1
        await clock.advance(20)
        job = await ended(node, job)
    assert (job.status, x.calls, len(job.steps[0].attempts)) == (JobStatus.SUCCESS, 2, 2)


async def test_a_pause_that_would_outlast_the_jobs_time_is_not_begun(clock: VirtualClock) -> None:
    x = Fails(*failures(3, retry_after=100.0))
    async with make_node(retrying(x), job_timeout_seconds=60) as node:
        job = await ended(node, await node.submit(request("x")))
    assert (job.status, x.calls) == (JobStatus.FAILED, 1)
    assert isinstance(job.result, ContainerError)
    assert job.result.error == "HTTP status 503"


async def test_the_jobs_time_can_be_over_in_a_pause(clock: VirtualClock) -> None:
    x = Fails(*failures(3, retry_after=100.0))
    async with make_node(retrying(x), job_timeout_seconds=150) as node:
        job = await node.submit(request("x"))
        await until(lambda: x.calls == 1)
        await clock.advance(101)
        await until(lambda: x.calls == 2)
        await clock.advance(60)
        job = await ended(node, job)
    assert isinstance(job.result, ContainerError)
    assert (job.status, job.result.error, x.calls) == (JobStatus.FAILED, "HTTP status 503", 2)


async def test_a_pause_ends_at_a_container_that_is_down_and_the_job_waits_for_it(clock: VirtualClock) -> None:
    calls = 0

    async def run(step: Step) -> ContainerOutput:
        nonlocal calls
        calls += 1
        if calls == 1:
            runner.switch()
            raise ContainerFailed("connection", "it went away", retry_after=10.0)
        return ContainerOutput(container=step.container, output=encode_payload({}))

    runner = SwitchRunner(Container(id="x", retry=Retry(attempts=2)), run=run)
    async with make_node(runner, queue_timeout_seconds=1000) as node:
        job = await node.submit(request("x"))
        await until(lambda: calls == 1)
        await clock.advance(500)
        assert calls == 1
        runner.switch("x")
        assert (await ended(node, job)).status is JobStatus.SUCCESS


async def test_a_pipeline_that_counts_attempts_wrongly_does_not_make_them_endless() -> None:
    class Forgetful(Sequence):
        def next_step(self, job: Job) -> Step | None:
            step = super().next_step(job)
            return step and replace(step, attempt=1)

    x = Fails(*failures(100))
    async with make_node(retrying(x), pipelines={"forgetful": Forgetful()}) as node:
        job = await ended(node, await node.submit(replace(request("x"), pipeline="forgetful")))
    assert (job.status, x.calls) == (JobStatus.FAILED, 3)


async def test_a_pause_is_kept_when_the_node_stops_while_the_store_fails() -> None:
    class Noting(SpiedStore):
        async def release(self, claim: Any, job: Any, *, delay_seconds: float = 0) -> None:
            delays.append(delay_seconds)
            await super().release(claim, job, delay_seconds=delay_seconds)

    delays: list[float] = []
    table = MemoryTable()
    store, x = Noting(table), Fails(*failures(1, retry_after=1000.0))
    async with make_node(retrying(x), store=store, drain_seconds=0) as node:
        store.failures["release"] = 1
        job = await node.submit(request("x"))
        await until(lambda: len(delays) == 1)
    assert delays == [1000.0, 1000.0]
    [job] = await table.get([job.id])
    assert job.not_before
