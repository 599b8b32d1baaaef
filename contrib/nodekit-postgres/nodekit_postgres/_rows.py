"""Jobs as rows: what becomes of a job in the tables, and the job that rows give."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from nodekit import (
    LEFT_OUT,
    ClientId,
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
)

NONE, OUTPUT, COPIED = 0, 1, 2
"""Kinds of records: without an output, with one, and with that of the job that is retried."""


class State(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The column `state`: the fields of a job that change, its open step, and facts of its request."""

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
    open_step: StepRecord | None = None
    group: GroupId | None = None
    priority: int = 3
    pipeline: str = "sequence"
    origin: Location = Location.OFFCHAIN
    destination: Location = Location.OFFCHAIN


_OF_JOB = tuple(State.__struct_fields__[: State.__struct_fields__.index("open_step")])
encode = msgspec.json.Encoder().encode
_decode_state = msgspec.json.Decoder(State).decode
_decode_request = msgspec.json.Decoder(JobRequest).decode
_decode_step = msgspec.json.Decoder(StepRecord).decode


def octets(text: str) -> bytes:
    """Return a text as the tables have it."""
    return text.encode("utf-8", "surrogatepass")


def text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def key_of(request: JobRequest) -> bytes | None:
    return None if request.idempotency_key is None else octets(request.idempotency_key)


def state_row(job: Job) -> bytes:
    request = job.request
    return encode(
        State(
            open_step=job.steps[-1] if len(job.steps) > job.ended_steps else None,
            group=request.group,
            priority=request.priority,
            pipeline=request.pipeline,
            origin=request.origin,
            destination=request.destination,
            **{name: getattr(job, name) for name in _OF_JOB},
        )
    )


def request_row(request: JobRequest) -> bytes:
    """Return the request without its data, which are a record."""
    return encode(replace(request, data=LEFT_OUT))


class Row(NamedTuple):
    """A record of a job: its data, or an ended step."""

    number: int
    kind: int
    outline: bytes
    output: bytes


def step_rows(job: Job, first: int, *, copies: bool = False) -> Iterable[Row]:
    """Yield the rows of the ended steps from an index on. With `copies`, an output that is left out is copied."""
    for number, step in enumerate(job.steps[first : job.ended_steps], first + 1):
        if isinstance(step.result, ContainerOutput):
            output = bytes(step.result.output)
            outline = encode(replace(step, result=replace(step.result, output=LEFT_OUT)))
            copied = copies and step.result.output == LEFT_OUT
            yield Row(number, COPIED if copied else OUTPUT, outline, b"" if copied else output)
        else:
            yield Row(number, NONE, encode(step), b"")


def with_output(outline: bytes, output: bytes | None) -> StepRecord:
    """Return a step from its outline, with its output if that is given."""
    step = _decode_step(outline)
    if output is not None and isinstance(step.result, ContainerOutput):
        return replace(step, result=replace(step.result, output=msgspec.Raw(output)))
    return step


class Stored(NamedTuple):
    """The parts of a job that were read."""

    id: bytes
    client: bytes
    state: bytes
    finish_number: int | None = None
    request: bytes | None = None
    data: bytes | None = None
    steps: Sequence[StepRecord] = ()
    open_step: bool = True


def job_of(row: Stored) -> Job:
    """Return the job of these rows. Raise `msgspec.DecodeError` if they are damaged."""
    state, client = _decode_state(row.state), text(row.client)
    if row.request is None:
        request = _unread(client, state)
    else:
        request = replace(_decode_request(row.request), data=msgspec.Raw(row.data or b""))
    opened = (state.open_step,) if state.open_step is not None and row.open_step else ()
    return Job(
        id=text(row.id),
        request=request,
        steps=(*row.steps, *opened),
        finish_number=row.finish_number,
        **{name: getattr(state, name) for name in _OF_JOB},
    )


def has_open_step(state: bytes) -> bool:
    return _decode_state(state).open_step is not None


def _unread(client: ClientId, state: State) -> JobRequest:
    return JobRequest(
        containers=(),
        data=msgspec.Raw(),
        client=client,
        group=state.group,
        priority=state.priority,
        pipeline=state.pipeline,
        origin=state.origin,
        destination=state.destination,
    )


def outcome_bytes(job: Job) -> int:
    """Return the number of bytes of an output that came with the end of a job."""
    result = job.outcome and job.outcome.result
    return len(memoryview(result.output)) if isinstance(result, ContainerOutput) else 0


def end_columns(job: Job) -> dict[str, Any]:
    """Return the columns of a job's end."""
    error = job.error
    return {
        "outcome_bytes": outcome_bytes(job),
        "error_container": None if error is None else octets(error.container),
        "error": None if error is None else octets(error.error),
        "finished_at": job.finished_at if job.status.finished else None,
    }


def arrays(rows: Sequence[Row]) -> dict[str, Any]:
    """Return records as the arrays that functions take. None stands for empty ones, which have no type."""
    if not rows:
        return dict.fromkeys(("numbers", "kinds", "outlines", "outputs"))
    numbers, kinds, outlines, outputs = zip(*rows, strict=True)
    return {"numbers": list(numbers), "kinds": list(kinds), "outlines": list(outlines), "outputs": list(outputs)}
