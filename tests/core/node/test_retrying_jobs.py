"""A failed job is submitted once more: what the node keeps of it, and which components it asks."""

from typing import Any

import pytest
from components import Gate, Told, functions, make_node, request
from msgspec.structs import replace

from nodekit import (
    FINISHED,
    ClientLimits,
    ContainerError,
    ContainerOutput,
    Job,
    JobAccepted,
    JobRequest,
    JobStatus,
    KeyReused,
    Location,
    NotFailed,
    Outcome,
    Refusal,
    TooManyJobs,
    Unavailable,
    encode_payload,
)
from nodekit.testing import make_attempt, make_job

pytestmark = pytest.mark.anyio


def output(container: str = "echo") -> ContainerOutput:
    return ContainerOutput(container=container, output=encode_payload(container))


def error(container: str = "echo") -> ContainerError:
    return ContainerError(container=container, error="no reply", kind="timeout")


def ended(*results: ContainerOutput | ContainerError, outcome: Outcome = Outcome(JobStatus.FAILED)) -> Job:  # noqa: B008
    """Return a job of three steps that ended after these results."""
    job = make_job("echo", "reverse", "echo", priority=5, idempotency_key="k", body_digest="d", address="192.0.2.1")
    for result in results:
        job = job.with_result(result, make_attempt())
    return replace(job, due=None).finished(outcome, 2.0)


# -- the new job, decided purely ----------------------------------------------------------------------


def test_another_try_keeps_the_steps_before_the_one_that_failed() -> None:
    old = ended(output(), output("reverse"), error())
    job = make_job().retrying(old, "failed")
    assert (job.retry_of, job.steps) == (old.id, old.steps[:2])
    assert (job.status, job.outcome, job.finished_at, job.attempt) == (JobStatus.ACCEPTED, None, None, 1)
    assert job.results == [output(), output("reverse")]


def test_another_try_from_the_start_keeps_no_step() -> None:
    old = ended(output(), error("reverse"))
    job = make_job().retrying(old, "start")
    assert (job.retry_of, job.steps, job.attempt) == (old.id, (), 1)


def test_attempts_of_a_step_that_came_to_nothing_are_not_kept() -> None:
    """The step was open because the job was cancelled or the node ended."""
    old = make_job("echo", "reverse").with_result(output(), make_attempt())
    old = old.with_failure("reverse", make_attempt(kind="timeout", failure="no reply"))
    old = old.finished(Outcome(JobStatus.CANCELLED), 2.0)
    job = make_job().retrying(old, "failed")
    assert (job.steps, job.attempt) == (old.steps[:1], 1)


def test_a_job_that_failed_in_its_first_step_begins_anew() -> None:
    assert make_job().retrying(ended(error()), "failed").steps == ()
    assert make_job().retrying(ended(), "failed").steps == ()


def test_an_error_that_the_pipeline_went_on_after_stays_where_it_was() -> None:
    """The job is kept as it was before: a pipeline that is asked again gives its earlier answer."""
    old = ended(output(), error("reverse"), output(), error("reverse"), error())
    assert make_job().retrying(old, "failed").steps == old.steps[:3]


def test_a_request_made_again_is_that_of_whoever_makes_it_now() -> None:
    asked = ended().request
    again = asked.again(address="::1", priority=None, idempotency_key="l", body_digest="e")
    assert again == replace(asked, address="::1", idempotency_key="l", body_digest="e")
    assert asked.again(address=None, priority=0, idempotency_key=None, body_digest=None).priority == 0


@pytest.mark.parametrize("destination", list(Location))
def test_nobody_listens_to_a_stream_that_is_made_again(destination: Location) -> None:
    asked = make_job(destination=destination, origin=Location.ONCHAIN).request
    again = asked.again(address=None, priority=None, idempotency_key=None, body_digest=None)
    kept = Location.OFFCHAIN if destination is Location.STREAM else destination
    assert (again.destination, again.origin) == (kept, Location.ONCHAIN)


@pytest.mark.parametrize("status", sorted(FINISHED))
def test_only_a_job_that_did_not_succeed_has_an_error(status: JobStatus) -> None:
    job = ended(output(), error("reverse"), outcome=Outcome(status))
    assert job.error == {JobStatus.SUCCESS: None, JobStatus.FAILED: error("reverse")}.get(
        status, ContainerError(container="", error="cancelled", kind="cancelled")
    )
    assert ended(output(), outcome=Outcome(status, output())).error is None
    assert make_job().error is None


# -- by a node ----------------------------------------------------------------------------------------


class Flaky:
    """Fails until the test repairs it."""

    mended = False

    async def __call__(self, data: Any) -> Any:
        if not self.mended:
            raise ValueError("not mended")
        return data


class Noting(Told):
    """An observer, and a guard that records requests."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[JobRequest] = []
        self.objects = False

    async def nodekit_admit(self, request: JobRequest) -> None:
        self.asked.append(request)
        if self.objects:
            raise Refusal("Not today")


async def test_the_same_client_gets_a_new_job_and_whoever_asks_is_who_guards_see() -> None:
    flaky, noting = Flaky(), Noting()
    async with make_node(functions(flaky=flaky), plugins=[noting], job_timeout_seconds=50) as node:
        asked = replace(request("echo", "flaky", n=1), address="192.0.2.1", priority=5, idempotency_key="k")
        [old] = await node.wait([(await node.submit(asked)).id])
        assert old.status is JobStatus.FAILED
        flaky.mended = True
        new = await node.retry(old.id, client="alice", address="192.0.2.9")
        assert new.id > old.id
        assert new.accepted_at >= (old.finished_at or 0)
        assert (new.retry_of, new.client, new.due, new.timeout_seconds) == (old.id, "alice", "flaky", 50)
        assert noting.asked[1:] == [replace(asked, address="192.0.2.9", idempotency_key=None)]
        assert [event.job.id for event in noting.events if isinstance(event, JobAccepted)] == [old.id, new.id]
        [done] = await node.wait([new.id])
        assert (done.status, done.results[:1]) == (JobStatus.SUCCESS, old.results[:1])
        assert await node.fetch([old.id]) == [old]


async def test_a_job_that_is_not_there_is_none_and_one_that_has_not_failed_is_said_to_be_so() -> None:
    gate = Gate()
    async with make_node(functions(gate=gate)) as node:
        [done] = await node.wait([(await node.submit(request())).id])
        running = await node.submit(request("gate"))
        with pytest.raises(NotFailed, match="successful"):
            await node.retry(done.id)
        with pytest.raises(NotFailed, match="not finished"):
            await node.retry(running.id)
        await node.cancel(running.id)
        assert await node.retry(running.id, client="bob") is None
        assert await node.retry(make_job().id) is None
        assert await node.retry(running.id, client="alice")
        gate.opened.set()


async def test_limits_guards_and_keys_hold_as_for_a_new_request() -> None:
    gate, noting = Gate(), Noting()
    limits = ClientLimits(max_pending=1, max_priority=2)
    async with make_node(functions(gate=gate), plugins=[noting], each_client=limits) as node:
        old = await node.submit(request("gate"))
        await node.cancel(old.id)
        noting.objects = True
        with pytest.raises(Refusal, match="Not today"):
            await node.retry(old.id)
        noting.objects = False
        new = await node.retry(old.id, priority=0, idempotency_key="k", body_digest="d")
        assert (new.request.priority, new.request.idempotency_key) == (2, "k")
        assert await node.retry(old.id, idempotency_key="k", body_digest="d") in await node.fetch([new.id])
        with pytest.raises(KeyReused):
            await node.retry(old.id, idempotency_key="k", body_digest="e")
        with pytest.raises(TooManyJobs):
            await node.retry(old.id)
        gate.opened.set()
    with pytest.raises(Unavailable):
        await node.retry(old.id)
