"""Builders: requests, jobs and steps with everything filled in that a test does not care about."""

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
from nodekit.model.ids import JobIds

_ids = JobIds()


def make_request(*containers: ContainerId, data: Any = None, client: ClientId = "alice", **fields: Any) -> JobRequest:
    """A request; `data` is a plain value, or `msgspec.Raw` to be taken as it is. Without containers: ``echo``."""
    return JobRequest(containers=containers or ("echo",), data=_payload(data), client=client, **fields)


def make_job(*containers: ContainerId, id: JobId | None = None, data: Any = None, **fields: Any) -> Job:
    """An accepted job whose first container is due; each is newer than the last. `fields` are those of its request."""
    request = make_request(*containers, data=data, **fields)
    return Job(id=id or _ids.next(), request=request, accepted_at=time.time(), due=request.containers[0])


def make_retry(output: Any = None) -> Job:
    """Another try of a job of three steps: the output of the first is kept, and ``reverse`` is due."""
    old = with_output(make_job("echo", "reverse", "echo"), output, due="reverse")
    return replace(make_job("echo", "reverse", "echo").retrying(old, "failed"), due="reverse")


def make_attempt(*, kind: FailureKind | None = None, failure: str | None = None, instance: str = "one") -> Attempt:
    """A call that took a second."""
    now = time.time()
    return Attempt(started_at=now - 1, finished_at=now, kind=kind, failure=failure, instance=instance)


def with_output(job: Job, output: Any = None, *, due: ContainerId | None = None) -> Job:
    """The step that is due gave an output, and `due` (or the same container again) is next."""
    container = job.due or ""
    result = ContainerOutput(container=container, output=_payload(output), instance="one")
    return replace(job.with_result(result, make_attempt()), due=due or container)


def succeeded(job: Job) -> Job:
    """The step that is due gave an output, and that was the last one."""
    return with_output(job).finished(Outcome(JobStatus.SUCCESS), time.time())


def make_step(
    container: ContainerId,
    data: Any = None,
    *,
    index: int = 0,
    attempt: int = 1,
    destination: Location = Location.OFFCHAIN,
) -> Step:
    """A step of some job."""
    input = ContainerInput(source=Location.OFFCHAIN, destination=destination, data=_payload(data), requires_proof=False)
    return Step(job_id=_ids.next(), index=index, attempt=attempt, container=container, input=input)


def _payload(value: Any) -> msgspec.Raw:
    if isinstance(value, msgspec.Raw):
        return value
    return encode_payload({} if value is None else value)
