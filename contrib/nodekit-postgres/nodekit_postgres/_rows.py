"""Jobs as rows: what becomes of a job in the tables, and the job that rows give."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from nodekit import (
    LEFT_OUT,
    ContainerOutput,
    Job,
    JobRequest,
    JobState,
    StepRecord,
    outcome_bytes,
)

NONE, OUTPUT, COPIED = 0, 1, 2
"""Kinds of records: without an output, with one, and with that of the job that is retried."""


encode = msgspec.json.Encoder().encode
_decode_request = msgspec.json.Decoder(JobRequest).decode
_decode_step = msgspec.json.Decoder(StepRecord).decode


def octets(text: str) -> bytes:
    """Return a text as the tables have it."""
    return text.encode("utf-8", "surrogatepass")


def text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def key_of(request: JobRequest) -> bytes | None:
    return None if request.idempotency_key is None else octets(request.idempotency_key)


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
    request = None
    if row.request is not None:
        request = replace(_decode_request(row.request), data=msgspec.Raw(row.data or b""))
    return JobState.decoded(row.state).job(
        text(row.id),
        text(row.client),
        request=request,
        steps=row.steps,
        open_step=row.open_step,
        finish_number=row.finish_number,
    )


def end_columns(job: Job) -> dict[str, Any]:
    """Return the columns of a job's end."""
    error = job.error
    return {
        "outcome_bytes": outcome_bytes(job.outcome),
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
