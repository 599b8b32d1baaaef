"""What has happened to one job, on the wire: times, attempts and errors, but no outputs, which may be large."""

from datetime import UTC, datetime
from typing import Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from nodekit import Attempt, ContainerError, FailureKind, Job, JobStatus, StepRecord
from nodekit_asgi._wire import WireStatus, wire_status

State: TypeAlias = Literal["accepted", "running", "waiting", "success", "failed", "cancelled"]


class WireAttempt(msgspec.Struct, frozen=True):
    """One call of a container."""

    started_at: str
    duration_seconds: float
    instance: str
    """Which running instance was called; empty where that is not known."""
    error: str | UnsetType = UNSET
    kind: FailureKind | UnsetType = UNSET
    status: int | UnsetType = UNSET
    """The HTTP status of an error, where there was one."""


class WireStep(msgspec.Struct, frozen=True):
    """One step and its attempts."""

    container: str
    attempts: list[WireAttempt]
    error: str | UnsetType = UNSET
    """How the step failed for good."""


class WireFailure(msgspec.Struct, frozen=True):
    """How a job failed, or that it was cancelled."""

    container: str
    error: str
    kind: FailureKind
    status: int | UnsetType = UNSET


class WireHistory(msgspec.Struct, frozen=True):
    """A job from its acceptance to its end. Times are RFC 3339 in UTC; what there is not is left out."""

    id: str
    status: WireStatus
    state: State
    pipeline: str
    containers: list[str]
    priority: int
    accepted_at: str
    steps: list[WireStep]
    finished_at: str | UnsetType = UNSET
    due: str | UnsetType = UNSET
    """The container of the next step."""
    not_before: str | UnsetType = UNSET
    """When a step that failed is tried again."""
    failure: WireFailure | UnsetType = UNSET
    retry_of: str | UnsetType = UNSET
    """The job that it is another try of."""


def wire_history(job: Job, *, now: float) -> WireHistory:
    """`now` in Unix seconds tells a job that waits to be tried again from one that may run."""
    waits = job.not_before is not None and job.not_before > now
    return WireHistory(
        id=job.id,
        status=wire_status(job),
        state="waiting" if waits else _STATES[job.status],
        pipeline=job.request.pipeline,
        containers=list(job.request.containers),
        priority=job.request.priority,
        accepted_at=_time(job.accepted_at),
        steps=[_step(record) for record in job.steps],
        finished_at=UNSET if job.finished_at is None else _time(job.finished_at),
        due=job.due or UNSET,
        not_before=_time(job.not_before) if waits and job.not_before is not None else UNSET,
        failure=_failure(job.result) if isinstance(job.result, ContainerError) else UNSET,
        retry_of=job.retry_of or UNSET,
    )


_STATES: dict[JobStatus, State] = {
    JobStatus.ACCEPTED: "accepted",
    JobStatus.RUNNING: "running",
    JobStatus.SUCCESS: "success",
    JobStatus.FAILED: "failed",
    JobStatus.CANCELLED: "cancelled",
}


def _step(record: StepRecord) -> WireStep:
    error = record.result.error if isinstance(record.result, ContainerError) else UNSET
    return WireStep(record.container, [_attempt(attempt) for attempt in record.attempts], error)


def _attempt(attempt: Attempt) -> WireAttempt:
    return WireAttempt(
        started_at=_time(attempt.started_at),
        duration_seconds=round(max(0.0, attempt.finished_at - attempt.started_at), 6),  # clocks are set back at times
        instance=attempt.instance,
        error=UNSET if attempt.failure is None else attempt.failure,
        kind=attempt.kind or UNSET,
        status=UNSET if attempt.status is None else attempt.status,
    )


def _failure(error: ContainerError) -> WireFailure:
    return WireFailure(error.container, error.error, error.kind, UNSET if error.status is None else error.status)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
