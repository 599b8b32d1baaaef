"""Builders of requests, jobs and steps with defaults for everything that a test does not set."""

import time
from typing import Any

import msgspec
from msgspec.structs import replace

from nodekit import (
    Attempt,
    ClientId,
    ContainerId,
    ContainerInput,
    ContainerOutput,
    FailureKind,
    Job,
    JobId,
    JobRequest,
    JobStatus,
    Location,
    Outcome,
    Step,
    encode_payload,
)
from nodekit.model.clock import NodeClock
from nodekit.model.ids import JobIds


class _Now:
    """This machine's clock, looked up with each question: a `VirtualClock` that is entered later moves it."""

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


_ids = JobIds(NodeClock(_Now()))

SEQUENCE = ("sequence",)
"""Pipelines of the jobs that these builders make, as `JobStore.claim` takes them."""


def make_request(*containers: ContainerId, data: Any = None, client: ClientId = "alice", **fields: Any) -> JobRequest:
    """Make a request for these containers, or for ``echo``. `data` is a plain value, or `msgspec.Raw` to pass
    unchanged."""
    return JobRequest(containers=containers or ("echo",), data=_payload(data), client=client, **fields)


def make_job(*containers: ContainerId, id: JobId | None = None, data: Any = None, **fields: Any) -> Job:
    """Make an accepted job with its first container due, newer than all jobs before. `fields` are those of its
    request."""
    request = make_request(*containers, data=data, **fields)
    return Job(id=id or _ids.next(), request=request, accepted_at=time.time(), due=request.containers[0])


def make_retry(output: Any = None) -> Job:
    """Make a retry of a job of three steps: the first output is kept, and ``reverse`` is due."""
    old = with_output(make_job("echo", "reverse", "echo"), output, due="reverse")
    return replace(make_job("echo", "reverse", "echo").retrying(old, "failed"), due="reverse")


def unnumbered(job: Job) -> Job:
    """Return a job as it was before its store numbered it."""
    return replace(job, finish_number=None)


def make_attempt(*, kind: FailureKind | None = None, failure: str | None = None, instance: str = "one") -> Attempt:
    """Make an attempt that took a second."""
    now = time.time()
    return Attempt(started_at=now - 1, finished_at=now, kind=kind, failure=failure, instance=instance)


def with_output(job: Job, output: Any = None, *, due: ContainerId | None = None) -> Job:
    """Return the job after an output of the due step. The next step is in `due`, or in the same container again."""
    container = job.due or ""
    result = ContainerOutput(container=container, output=_payload(output), instance="one")
    return replace(job.with_result(result, make_attempt()), due=due or container)


def succeeded(job: Job) -> Job:
    """Return the job after an output of the due step, finished with success."""
    return with_output(job).finished(Outcome(JobStatus.SUCCESS), time.time())


def make_step(
    container: ContainerId,
    data: Any = None,
    *,
    index: int = 0,
    attempt: int = 1,
    destination: Location = Location.OFFCHAIN,
) -> Step:
    """Make a step of some job."""
    input = ContainerInput(source=Location.OFFCHAIN, destination=destination, data=_payload(data), requires_proof=False)
    return Step(job_id=_ids.next(), index=index, attempt=attempt, container=container, input=input)


def _payload(value: Any) -> msgspec.Raw:
    if isinstance(value, msgspec.Raw):
        return value
    return encode_payload({} if value is None else value)
