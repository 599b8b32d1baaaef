"""The history of one job on the wire: times, attempts and errors. Outputs are left out, because they may be large."""

from datetime import UTC, datetime
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from nodekit import Attempt, ContainerError, FailureKind, Held, Job, JobStatus, ResultStatus, StepRecord, result_status
from nodekit_asgi.wire.fields import JOB_ID, ContainerField, ErrorField, ErrorStatus, JobIdField, TimeField, about

State: TypeAlias = Literal["accepted", "running", "waiting", "success", "failed", "cancelled"]


class WireAttempt(msgspec.Struct, frozen=True):
    """One ended call of a container."""

    started_at: TimeField
    duration_seconds: Annotated[float, about("The duration of the call.", 0.02, minimum=0)]
    instance: Annotated[str, about("The running instance that was called. Empty if it is not known.", "upper-1")]
    error: ErrorField | UnsetType = UNSET
    kind: Annotated[FailureKind | UnsetType, about("The kind of error, for programs.", "timeout")] = UNSET
    status: ErrorStatus | UnsetType = UNSET


class WireCall(msgspec.Struct, frozen=True):
    """A call of a container that is under way."""

    attempt: Annotated[int, about("The number of the attempt, from 1.", 1, minimum=1)]
    started_at: TimeField
    node: Annotated[str, about("The name of the node that makes the call.", "node")]
    instance: Annotated[str, about("The running instance that is called. Empty if it is not known.", "")] = ""


class WireStep(msgspec.Struct, frozen=True):
    """One step that has begun, and its attempts."""

    container: ContainerField
    attempts: Annotated[list[WireAttempt], about("The calls that have ended, in their order.")]
    error: Annotated[str | UnsetType, about("The final error of the step.", "no reply within 180 s")] = UNSET
    running: WireCall | UnsetType = UNSET


class WireFailure(msgspec.Struct, frozen=True):
    """The failure or cancellation of a job. `container` is the one that was due."""

    container: ContainerField
    error: ErrorField
    kind: Annotated[FailureKind, about("The kind of error, for programs.", "timeout")]
    status: ErrorStatus | UnsetType = UNSET


class WireHistory(msgspec.Struct, frozen=True):
    """A job from its acceptance to its end. Fields without a value are left out."""

    id: JobIdField
    status: Annotated[ResultStatus, about("The status, as in a JobResult.", "failed")]
    state: Annotated[
        State,
        about(
            "`status` in more detail. `accepted`: no call has begun yet. `waiting`: a step will be tried again.",
            "failed",
        ),
    ]
    pipeline: Annotated[str, about("The pipeline of the request.", "sequence")]
    containers: Annotated[list[ContainerField], about("The containers of the request.", ["upper", "translate"])]
    priority: Annotated[
        int, about("The priority that the node gave the job. 0 is the most urgent.", 3, minimum=0, maximum=7)
    ]
    accepted_at: TimeField
    steps: Annotated[list[WireStep], about("The steps that have begun.")]
    finished_at: TimeField | UnsetType = UNSET
    due: Annotated[str | UnsetType, about("The container of the next step.", "translate")] = UNSET
    not_before: Annotated[
        str | UnsetType,
        about("The time of the next attempt of a step that failed.", "2026-01-05T12:03:05.000Z", format="date-time"),
    ] = UNSET
    failure: WireFailure | UnsetType = UNSET
    retry_of: Annotated[str | UnsetType, about("The id of the job that this job retries.", JOB_ID, format="uuid")] = (
        UNSET
    )
    client: Annotated[str | UnsetType, about("The client of the job. Only operators see it.", "alice")] = UNSET
    meta: Annotated[
        dict[str, str] | UnsetType,
        about("Facts that plugins have noted about the job.", {"tenant": "acme"}),
    ] = UNSET


def wire_history(job: Job, *, now: float, held: Held | None = None, for_operator: bool = False) -> WireHistory:
    """Return the history of a job. `now`, in Unix seconds, decides whether the job waits for its next attempt.

    `held` is the call that is under way, if there is one.
    """
    if job.status.finished or (held is not None and held.step != len(job.results)):
        held = None  # the call belongs to another moment than the job
    waits = held is None and job.not_before is not None and job.not_before > now
    return WireHistory(
        id=job.id,
        status=result_status(job),
        state="waiting" if waits else "running" if held else _STATES[job.status],
        pipeline=job.request.pipeline,
        containers=list(job.request.containers),
        priority=job.request.priority,
        accepted_at=_time(job.accepted_at),
        steps=_steps(job, held),
        finished_at=UNSET if job.finished_at is None else _time(job.finished_at),
        due=job.due or UNSET,
        not_before=_time(job.not_before) if waits and job.not_before is not None else UNSET,
        failure=_failure(job.result) if isinstance(job.result, ContainerError) else UNSET,
        retry_of=job.retry_of or UNSET,
        client=job.request.client if for_operator else UNSET,
        meta=dict(job.request.meta) or UNSET,
    )


_STATES: dict[JobStatus, State] = {
    JobStatus.ACCEPTED: "accepted",
    JobStatus.RUNNING: "running",
    JobStatus.SUCCESS: "success",
    JobStatus.FAILED: "failed",
    JobStatus.CANCELLED: "cancelled",
}


def _steps(job: Job, held: Held | None) -> list[WireStep]:
    steps = [_step(record) for record in job.steps]
    if held is None:
        return steps
    before = steps.pop().attempts if job.steps and job.steps[-1].result is None else []
    call = WireCall(held.attempt, _time(held.since), held.node, held.instance)
    return [*steps, WireStep(job.due or "", before, running=call)]


def _step(record: StepRecord) -> WireStep:
    error = record.result.error if isinstance(record.result, ContainerError) else UNSET
    return WireStep(record.container, [_attempt(attempt) for attempt in record.attempts], error)


def _attempt(attempt: Attempt) -> WireAttempt:
    return WireAttempt(
        started_at=_time(attempt.started_at),
        duration_seconds=round(max(0.0, attempt.finished_at - attempt.started_at), 6),  # a clock may be set back
        instance=attempt.instance,
        error=UNSET if attempt.failure is None else attempt.failure,
        kind=attempt.kind or UNSET,
        status=UNSET if attempt.status is None else attempt.status,
    )


def _failure(error: ContainerError) -> WireFailure:
    return WireFailure(error.container, error.error, error.kind, UNSET if error.status is None else error.status)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
