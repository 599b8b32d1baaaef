"""Jobs as rows: the columns and records that a job becomes in the file."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgspec
from msgspec.structs import replace

from nodekit import (
    LEFT_OUT,
    ClientId,
    ContainerError,
    ContainerId,
    ContainerOutput,
    GroupId,
    Job,
    JobId,
    JobRequest,
    JobStatus,
    Location,
    Outcome,
    StepRecord,
    Unfinished,
    default_group,
)


class _State(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The fields of a job that change, without its steps."""

    accepted_at: float
    status: JobStatus
    due: ContainerId | None = None
    not_before: float | None = None
    delay_seconds: float | None = None
    timeout_seconds: float | None = None
    queue_timeout_seconds: float | None = None
    outcome: Outcome | None = None
    finished_at: float | None = None
    retry_of: JobId | None = None


class Row(_State, frozen=True, kw_only=True, omit_defaults=True):
    """The column `state`. It includes what scheduling needs of the request, so that the request need not be read."""

    group: GroupId | None = None
    priority: int = 3
    pipeline: str = "sequence"
    origin: Location = Location.OFFCHAIN
    destination: Location = Location.OFFCHAIN


encode = msgspec.json.Encoder().encode
decode_state = msgspec.json.Decoder(_State).decode
decode_row = msgspec.json.Decoder(Row).decode
decode_request = msgspec.json.Decoder(JobRequest).decode
decode_record = msgspec.json.Decoder(StepRecord).decode
_NO_DATA = msgspec.Raw(b"null")


def request_row(request: JobRequest) -> bytes:
    """Return the column `request`: all but the data, which are a record of their own."""
    return encode(replace(request, data=_NO_DATA))


def changing_columns(job: Job) -> tuple[Any, ...]:
    """Return the values of the columns that change: state, status, open, finish_number, error_container, error."""
    error = job.error
    failed = (None, None) if error is None else (error.container, error.error)
    return _encode_state(job), str(job.status), int(not job.status.finished), job.finish_number, *failed


def _encode_state(job: Job) -> bytes:
    request = job.request
    return encode(
        Row(
            accepted_at=job.accepted_at,
            status=job.status,
            due=job.due,
            not_before=job.not_before,
            delay_seconds=job.delay_seconds,
            timeout_seconds=job.timeout_seconds,
            queue_timeout_seconds=job.queue_timeout_seconds,
            outcome=job.outcome,
            finished_at=job.finished_at,
            retry_of=job.retry_of,
            group=request.group,
            priority=request.priority,
            pipeline=request.pipeline,
            origin=request.origin,
            destination=request.destination,
        )
    )


def step_records(job: Job, first: int) -> Iterator[tuple[int, bool, bytes]]:
    """Yield the number of each step from `first` on, True if it is finished, and its body."""
    for number, record in enumerate(islice(job.steps, first, None), first + 1):
        yield number, record.result is not None, encode(record)


def is_left_out(step: StepRecord) -> bool:
    """Return True if the step has an output that is not in this object."""
    return isinstance(step.result, ContainerOutput) and step.result.output == LEFT_OUT


class _Answered(msgspec.Struct, frozen=True, tag="output"):
    """A `ContainerOutput` without its output, which is not copied."""

    container: ContainerId
    instance: str = ""


class _Outline(StepRecord, frozen=True, kw_only=True):
    """A `StepRecord` without its output."""

    result: _Answered | ContainerError | None = None  # type: ignore[assignment]  # pyright: ignore


_outline = msgspec.json.Decoder(_Outline).decode


def record_without_output(body: bytes) -> StepRecord:
    outline = _outline(body)
    result: Any = outline.result
    if isinstance(result, _Answered):
        result = ContainerOutput(container=result.container, output=LEFT_OUT, instance=result.instance)
    return StepRecord(container=outline.container, attempts=outline.attempts, result=result)


def unread_request(client: ClientId, row: Row) -> JobRequest:
    """Return what the row of a job has of its request."""
    return JobRequest(
        containers=(),
        data=msgspec.Raw(),
        client=client,
        group=row.group,
        priority=row.priority,
        pipeline=row.pipeline,
        origin=row.origin,
        destination=row.destination,
    )


def group_of(client: ClientId, state: bytes) -> GroupId:
    """Return the group of a job, given two of its columns."""
    return decode_row(state).group or default_group(client)


def unfinished(id: JobId, client: ClientId, size: int, state: bytes) -> Unfinished:
    """Return the facts for scheduling an unfinished job, given its columns."""
    row = decode_row(state)
    return Unfinished(
        id=id,
        group=row.group or default_group(client),
        priority=row.priority,
        due=row.due or "",
        pipeline=row.pipeline,
        onchain=Location.ONCHAIN in (row.origin, row.destination),
        streams=row.destination is Location.STREAM,
        not_before=row.not_before,
        delay_seconds=row.delay_seconds,
        timeout_seconds=row.timeout_seconds,
        queue_timeout_seconds=row.queue_timeout_seconds,
        payload_bytes=size,
    )
