"""Requests, jobs and their transitions. Pure: every change is a new `Job`, nothing here waits or reads a clock."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from nodekit.errors import FailureKind, NodekitError
from nodekit.model.container import (
    ClientId,
    ContainerError,
    ContainerId,
    ContainerOutput,
    ContainerResult,
    JobId,
    Location,
)
from nodekit.model.payload import encode_payload


class JobStatus(StrEnum):
    """How far a job has got: accepted → running → success, failed or cancelled."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        """Whether nothing will change any more."""
        return self not in UNFINISHED


UNFINISHED = frozenset({JobStatus.ACCEPTED, JobStatus.RUNNING})
FINISHED = frozenset(JobStatus) - UNFINISHED
UNSUCCESSFUL = frozenset({JobStatus.FAILED, JobStatus.CANCELLED})
"""What clients see as `failed`, and may retry."""

RetryFrom: TypeAlias = Literal["failed", "start"]
"""Where another try of a job begins: with the step that failed, or with the first."""


LOWEST_PRIORITY = 7


class JobRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a client asks for. A transport fills it in; who asks is never taken from a body."""

    containers: tuple[ContainerId, ...]
    data: msgspec.Raw
    pipeline: str = "sequence"
    requires_proof: bool = False
    client: ClientId = "local"
    address: str | None = None
    """The IP address that the request came from; None where there is none (a unix socket, the same process)."""
    origin: Location = Location.OFFCHAIN
    destination: Location = Location.OFFCHAIN
    priority: Annotated[int, msgspec.Meta(ge=0, le=LOWEST_PRIORITY)] = 3
    """Lower is sooner."""
    idempotency_key: str | None = None
    body_digest: str | None = None
    """Of the body that came with `idempotency_key`."""

    @classmethod
    def of(
        cls, *containers: ContainerId, data: Mapping[str, Any], client: ClientId = "local", pipeline: str = "sequence"
    ) -> "JobRequest":
        """A request from plain Python values. Raises `InvalidPayload` for data that JSON cannot hold."""
        return cls(containers=containers, data=encode_payload(data), client=client, pipeline=pipeline)

    def again(
        self, *, address: str | None, priority: int | None, idempotency_key: str | None, body_digest: str | None
    ) -> "JobRequest":
        """The same request once more, from where and how it is made now; nobody listens to it as to a stream."""
        return replace(
            self,
            address=address,
            priority=self.priority if priority is None else priority,
            idempotency_key=idempotency_key,
            body_digest=body_digest,
            destination=Location.OFFCHAIN if self.destination is Location.STREAM else self.destination,
        )


class Attempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One call of a container. Times are Unix seconds."""

    started_at: float
    finished_at: float
    instance: str = ""
    kind: FailureKind | None = None
    failure: str | None = None
    """What went wrong; None where it gave an output."""
    status: int | None = None
    """The HTTP status of a failure, where there was one."""


class StepRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What happened in one step; the last one of a job may still be open."""

    container: ContainerId
    attempts: tuple[Attempt, ...] = ()
    result: ContainerResult | None = None


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a job ends."""

    status: JobStatus
    """Success, failed or cancelled."""
    result: ContainerResult | None = None
    """The job's result; None: the result of its last step (or, of a cancelled job, an error that says so)."""

    def check(self) -> None:
        """Raises `NodekitError` where this is not how a job ends."""
        status: Any = self.status
        if status not in FINISHED or not isinstance(status, JobStatus):
            raise NodekitError(f"status: a job ends with success, failed or cancelled, not with {status!r}")


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted request and how far it has got. Times are Unix seconds."""

    id: JobId
    request: JobRequest
    accepted_at: float
    status: JobStatus = JobStatus.ACCEPTED
    due: ContainerId | None = None
    """The container of the next step, set by the node from the pipeline before it stores the job."""
    not_before: float | None = None
    """The next step waits until then."""
    delay_seconds: float | None = None
    """For how long it was to wait when `not_before` was set: the most that a clock which jumped can make it wait."""
    timeout_seconds: float | None = None
    """How long the job may take, from its acceptance to its end; None: as long as it takes."""
    queue_timeout_seconds: float | None = None
    """How long it may wait in the queue for the container that is due; set by the node together with `due`."""
    steps: tuple[StepRecord, ...] = ()
    outcome: Outcome | None = None
    finished_at: float | None = None
    retry_of: JobId | None = None
    """The job that this one is another try of."""

    @property
    def client(self) -> ClientId:
        """Who may read the job."""
        return self.request.client

    @property
    def result(self) -> ContainerResult | None:
        """The job's result once it is finished."""
        if self.outcome is None:
            return None
        return self.outcome.result or (self.steps[-1].result if self.steps else None)

    @property
    def error(self) -> ContainerError | None:
        """How it failed, or that it was cancelled; None where it did not, or where nothing says how."""
        return self.result if self.status in UNSUCCESSFUL and isinstance(self.result, ContainerError) else None

    @property
    def results(self) -> Sequence[ContainerResult]:
        """The results of the finished steps, in order."""
        return [record.result for record in self.steps if record.result is not None]

    @property
    def intermediate_results(self) -> Sequence[ContainerResult]:
        """The results of the finished steps, without the one that is the job's result."""
        if self.outcome is not None and self.outcome.result is None:
            return self.results[:-1]
        return self.results

    @property
    def attempt(self) -> int:
        """The number of the next attempt of the step that is due, from 1."""
        return len(self._open.attempts) + 1 if self._open else 1

    @property
    def _open(self) -> StepRecord | None:
        return self.steps[-1] if self.steps and self.steps[-1].result is None else None

    def retrying(self, old: "Job", start: RetryFrom) -> "Job":
        """This job, which is new, as another try of `old`: with its steps up to the last output, unless from the start.

        `old` was at that point once, so that its pipeline, asked again, names the step that followed then.
        """
        outputs = [number for number, step in enumerate(old.steps, 1) if isinstance(step.result, ContainerOutput)]
        kept = old.steps[: outputs[-1]] if outputs and start == "failed" else ()
        return replace(self, retry_of=old.id, steps=kept)

    def with_result(self, result: ContainerResult, attempt: Attempt) -> "Job":
        """The step that is due has its result, an output or an error that ends it."""
        return self._with_attempt(result.container, attempt, result)

    def with_failure(self, container: ContainerId, attempt: Attempt) -> "Job":
        """An attempt failed and the step stays due."""
        return self._with_attempt(container, attempt, None)

    def _with_attempt(self, container: ContainerId, attempt: Attempt, result: ContainerResult | None) -> "Job":
        earlier, before = (self._open.attempts, self.steps[:-1]) if self._open else ((), self.steps)
        record = StepRecord(container=container, attempts=(*earlier, attempt), result=result)
        return replace(self, status=JobStatus.RUNNING, steps=(*before, record), not_before=None, delay_seconds=None)

    def finished(self, outcome: Outcome, at: float) -> "Job":
        """The job has ended; the first end is the only one. Raises `NodekitError` for an outcome that is no end."""
        if self.status.finished:
            return self
        outcome.check()
        if outcome.status is JobStatus.CANCELLED and outcome.result is None:
            error = ContainerError(container=self.due or "", error="cancelled", kind="cancelled")
            outcome = Outcome(outcome.status, error)
        ended = replace(self, status=outcome.status, outcome=outcome, finished_at=at)
        return replace(ended, due=None, not_before=None, delay_seconds=None, queue_timeout_seconds=None)


def last_output(job: Job) -> msgspec.Raw | None:
    """What the next step of a sequence gets: the output of the last finished step, or the request's data.

    None where that step ended with an error.
    """
    if not job.results:
        return job.request.data
    last = job.results[-1]
    return last.output if isinstance(last, ContainerOutput) else None


def interrupted_outcome(container: ContainerId) -> Outcome:
    """Return the end of a stream that no node holds any more."""
    return Outcome(JobStatus.FAILED, ContainerError(container=container, error="interrupted", kind="interrupted"))
