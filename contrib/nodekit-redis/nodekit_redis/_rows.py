"""Jobs as fields of a hash: what becomes of a job there, and the job that the fields give.

The request, its data, and the outline and output of each step are fields of their own, under the name of the call that
wrote them: ``r:NAME``, ``o0:NAME``, ``sN:NAME`` and ``oN:NAME``. They count once the field ``names`` has that name.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, unquote_to_bytes

import msgspec
from msgspec.structs import replace

from nodekit import (
    LEFT_OUT,
    ClientId,
    ContainerOutput,
    Job,
    JobFields,
    JobId,
    JobRequest,
    JobState,
    StepRecord,
    StoreFailed,
    outcome_bytes,
)
from nodekit_redis._address import Command

encode = msgspec.json.Encoder().encode
_decode_request = msgspec.json.Decoder(JobRequest).decode
_decode_step = msgspec.json.Decoder(StepRecord).decode


def quoted(text: str) -> str:
    """Return a text without the characters that separate the parts of keys and fields."""
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


def unquoted(raw: bytes) -> str:
    return unquote_to_bytes(raw).decode("utf-8", "surrogatepass")


def key_field(client: ClientId, key: str | None) -> str:
    """Return the field of an idempotency key; empty without one."""
    return "" if key is None else f"{quoted(client)} {quoted(key)}"


def optional(value: float | None) -> str:
    return "" if value is None else repr(float(value))


def request_fields(request: JobRequest, name: str) -> list[bytes | str]:
    return [f"r:{name}", encode(replace(request, data=LEFT_OUT)), f"o0:{name}", bytes(request.data)]


def step_fields(job: Job, first: int, name: str, *, copies: bool = False) -> tuple[list[bytes | str], str, list[int]]:
    """Return the fields of the ended steps from an index on, a mark for each, and the numbers of those to copy.

    The mark is ``!`` for a step with an output. With `copies`, an output that is left out is one to copy.
    """
    fields: list[bytes | str] = []
    marks: list[str] = []
    copied: list[int] = []
    for number, step in enumerate(job.steps[first : job.ended_steps], first + 1):
        result = step.result
        outline = step
        if isinstance(result, ContainerOutput):
            outline = replace(step, result=replace(result, output=LEFT_OUT))
            if copies and result.output == LEFT_OUT:
                copied.append(number)
            else:
                fields += (f"o{number}:{name}", bytes(result.output))
        marks.append("!" if isinstance(result, ContainerOutput) else "-")
        fields += (f"s{number}:{name}", encode(outline))
    return fields, "".join(marks), copied


def end_facts(job: Job) -> list[Any]:
    """Return the arguments of the function `finish` of the scripts."""
    error = job.error
    return [
        job.status,
        outcome_bytes(job.outcome),
        optional(job.finished_at),
        "0" if error is None else "1",
        "" if error is None else quoted(error.container),
        "" if error is None else error.error.encode("utf-8", "surrogatepass"),
    ]


class Head(NamedTuple):
    """The fields of a job that say where its other fields are."""

    id: JobId
    state: JobState
    client: ClientId
    names: Sequence[str]
    number: int | None = None
    revision: int = 0

    @property
    def steps(self) -> int:
        """Number of its ended steps."""
        return len(self.names) - 1

    def has_output(self, step: int) -> bool:
        return self.names[step].endswith("!")

    def field(self, kind: str, step: int) -> str:
        return f"{kind}{step}:{self.names[step].rstrip('!')}"


HEAD = ("state", "client", "names", "number", "revision")


def head_of(id: JobId, values: Sequence[Any]) -> Head | None:
    """Return the head of a job, or None if there is no such job. Raise `StoreFailed` if it is damaged."""
    state, client, names, number, revision = values
    if state is None:
        return None
    try:
        decoded = JobState.decoded(state)
    except msgspec.DecodeError as error:
        raise StoreFailed(f"job {id} is damaged: {error}") from error
    return Head(
        id, decoded, unquoted(client), names.decode().split("\n"), int(number) if number else None, int(revision or 0)
    )


class Parts(NamedTuple):
    """The fields to read of a job beside its head: steps from 1 on, and those whose outputs are wanted."""

    head: Head
    request: bool
    steps: Sequence[int]
    outputs: Sequence[int]
    open_step: bool

    @property
    def command(self) -> Command | None:
        head = self.head
        fields: list[str] = []
        if self.request:
            fields += (f"r:{head.names[0]}", f"o0:{head.names[0]}")
        fields += [head.field("s", number) for number in self.steps]
        fields += [head.field("o", number) for number in self.outputs]
        return fields or None


def parts_of(head: Head, fields: JobFields) -> Parts:
    """Return the parts of a job that are needed for these fields."""
    numbers = range(1, head.steps + 1)
    opened = head.state.open_step is not None
    if JobFields.STEPS in fields:
        steps, outputs = list(numbers), [n for n in numbers if head.has_output(n)]
    elif JobFields.RECORDS in fields:
        steps = list(numbers)
        outputs = [n for n in numbers if head.has_output(n)][-1:]
    elif JobFields.LAST_STEP in fields:
        steps = [] if opened else list(numbers[-1:])
        outputs = [n for n in steps if head.has_output(n)]
    else:
        return Parts(head, JobFields.REQUEST in fields, (), (), open_step=False)
    return Parts(head, JobFields.REQUEST in fields, steps, outputs, open_step=True)


def job_of(parts: Parts, values: Sequence[bytes | None]) -> Job | None:
    """Return the job of these fields, or None if it was deleted meanwhile. Raise `StoreFailed` if it is damaged."""
    head = parts.head
    if None in values:
        return None
    remaining = iter(values)
    try:
        request = None
        if parts.request:
            request = _decode_request(next(remaining) or b"")
            request = replace(request, data=msgspec.Raw(next(remaining) or b""))
        steps = steps_of(parts, remaining)
    except msgspec.DecodeError as error:
        raise StoreFailed(f"job {head.id} is damaged: {error}") from error
    return head.state.job(
        head.id, head.client, request=request, steps=steps, open_step=parts.open_step, finish_number=head.number
    )


def steps_of(parts: Parts, values: Any) -> list[StepRecord]:
    """Return ended steps from their outlines, followed by their outputs."""
    steps = {number: _decode_step(next(values) or b"") for number in parts.steps}
    for number in parts.outputs:
        output, step = next(values), steps[number]
        if isinstance(step.result, ContainerOutput):
            steps[number] = replace(step, result=replace(step.result, output=msgspec.Raw(output)))
    return list(steps.values())
