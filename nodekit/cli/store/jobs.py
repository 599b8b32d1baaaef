"""`nodekit store jobs`."""

import sys
import time
from collections.abc import Iterator
from typing import Any, get_args

import click
import msgspec

from nodekit.cli.exit_codes import FAILED
from nodekit.cli.store.ages import duration_text, time_text
from nodekit.cli.store.node_store import run, store_of, view_of
from nodekit.cli.store.options import FILE, choosing, valid_text
from nodekit.cli.store.output import (
    LINE_ENDS,
    LONGEST_ERROR,
    Table,
    dated,
    echo_json,
    echo_json_line,
    job_document,
    short,
)
from nodekit.cli.store.reading import Choice, Reader
from nodekit.errors import NodekitError
from nodekit.foreign_text import DECODING, printable
from nodekit.interfaces.store import JobStore
from nodekit.model.container import ContainerError, ContainerId, ContainerOutput, ContainerResult, GroupId, JobId
from nodekit.model.counting import counted
from nodekit.model.job import UNFINISHED, Attempt, Job, StepRecord
from nodekit.model.queries import JobFields, JobOrder

HEADS = ("ID", "STATUS", "CLIENT", "ACCEPTED", "DURATION", "CONTAINER", "ERROR")


class JobLine(msgspec.Struct, frozen=True):
    """A job as a line of JSON shows it."""

    id: JobId
    status: str
    client: str
    group: GroupId
    pipeline: str
    priority: int
    accepted_at: float
    finished_at: float | None
    container: ContainerId
    error: str | None
    kind: str | None
    retry_of: JobId | None
    bytes: int
    damaged: bool


@click.command()
@FILE
@click.argument("id", required=False, callback=valid_text)
@choosing
@click.option("--order", type=click.Choice(get_args(JobOrder)), default="newest", show_default=True)
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Only the first jobs.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each job; with ID, all of it.")
@click.option(
    "--output-of", type=click.IntRange(min=0), metavar="N", help="With ID: print the output of step N; 0: the data."
)
def jobs(file: str, id: str | None, as_json: bool, output_of: int | None, **chosen: Any) -> None:
    """Show the jobs of the store of a node file, whoever their clients are; with ID, one job whole.

    The node may run meanwhile, or not. Nothing is written. Exits with 0, 3 when the table [store] is not valid, 1 when
    the store fails or a job cannot be read.
    """
    if output_of is not None and id is None:
        raise click.UsageError("--output-of needs the ID of a job")
    store = store_of(file)
    if id is None:
        complete = run(file, lambda: _list(store, Choice(**chosen), as_json))
    else:
        complete = run(file, lambda: _show(store, id, as_json, output_of))
    sys.exit(0 if complete else FAILED)


async def _list(store: JobStore, choice: Choice, as_json: bool) -> bool:
    table, number = Table(HEADS), 0
    async with view_of(store) as view:
        reader = Reader(view)
        async for page in reader.states(choice):
            found = await reader.with_error(page)
            number += len(found)
            sizes = await view.sizes([job.id for job in found]) if as_json else dict[JobId, int]()
            lines = [
                _line(job, await reader.container_of(job), sizes.get(job.id, 0), job.id in reader.damaged)
                for job in found
            ]
            if as_json:
                for line in lines:
                    echo_json(dated(line))
            else:
                table.echo(_row(line) for line in lines)
    if number == choice.limit:
        first = "this is the first job" if number == 1 else f"these are the first {number} jobs"
        click.echo(f"{first}; --limit shows more", err=True)
    return _told(reader)


def _told(reader: Reader) -> bool:
    """Name the jobs that could not be read. Return True if there are none."""
    problems = reader.problems
    for id, text in problems.items():
        click.echo(printable(f"job {id} cannot be read: {text}"), err=True)
    return not problems


def _line(job: Job, container: ContainerId, size: int, damaged: bool) -> JobLine:
    error = job.error
    return JobLine(
        id=job.id,
        status=_status(job, damaged),
        client=job.client,
        group=job.group,
        pipeline=job.request.pipeline,
        priority=job.request.priority,
        accepted_at=job.accepted_at,
        finished_at=job.finished_at,
        container=container,
        error=None if error is None else error.error,
        kind=None if error is None else error.kind,
        retry_of=job.retry_of,
        bytes=size,
        damaged=damaged,
    )


def _status(job: Job, damaged: bool) -> str:
    return "damaged" if damaged else "queued" if job.status == "accepted" else str(job.status)


def _row(line: JobLine) -> tuple[str, ...]:
    end = time.time() if line.finished_at is None else line.finished_at
    return (
        line.id,
        line.status,
        short(line.client),
        time_text(line.accepted_at),
        duration_text(end - line.accepted_at),
        short(line.container) or "-",
        short(" ".join((line.error or "").split()), LONGEST_ERROR),
    )


# -- one job -------------------------------------------------------------------------------------------


async def _show(store: JobStore, id: JobId, as_json: bool, output_of: int | None) -> bool:
    async with view_of(store) as view:
        reader = Reader(view)
        job = next(iter(await view.get([id], fields=JobFields.ALL)), None)
        if job is None:
            raise NodekitError(f"there is no job {id} in the store; `nodekit store jobs` lists those that are there")
        if output_of is not None:
            if job.id in reader.damaged:
                raise NodekitError(f"job {id} is damaged and cannot be read; a backup may have it whole")
            click.echo(_output(job, output_of), nl=False)
        elif as_json:
            echo_json_line(job_document(job))
        else:
            for line in _lines(job, job.id in reader.damaged):
                click.echo(line)
        return _told(reader)


def _output(job: Job, number: int) -> bytes:
    if number == 0:
        return bytes(job.request.data)
    if number > len(job.steps):
        raise NodekitError(f"job {job.id} has {counted(len(job.steps), 'step')}; name one of them, or 0 for the data")
    result = job.steps[number - 1].result
    if not isinstance(result, ContainerOutput):
        raise NodekitError(
            f"step {number} of job {job.id} has no output; `nodekit store jobs FILE {job.id}` shows how it ended"
        )
    return bytes(result.output)


def _lines(job: Job, damaged: bool) -> Iterator[str]:
    for name, value in _facts(job, damaged):
        yield f"{name:<12} {printable(value, keep='')}"
    yield f"{'data':<12} {_payload(job.request.data)}"
    for number, step in enumerate(job.steps, 1):
        yield ""
        yield from _step_lines(number, step)
    if job.outcome is not None and job.outcome.result is not None:
        yield ""
        yield f"the end      {_result(job.outcome.result)}"


def _facts(job: Job, damaged: bool) -> Iterator[tuple[str, str]]:
    request = job.request
    yield "job", job.id
    yield "status", _status(job, damaged)
    yield "client", job.client
    if job.group != job.client:
        yield "group", job.group
    if request.address is not None:
        yield "address", request.address
    yield "pipeline", f"{request.pipeline}: {' -> '.join(request.containers)}"
    yield "priority", str(request.priority)
    yield "accepted", time_text(job.accepted_at)
    if job.finished_at is not None:
        yield "finished", f"{time_text(job.finished_at)}, after {duration_text(job.finished_at - job.accepted_at)}"
    if job.finish_number is not None:
        yield "number", str(job.finish_number)
    if job.status in UNFINISHED:
        later = f", not before {time_text(job.not_before)}" if job.not_before is not None else ""
        yield "due", f"{job.due or '-'}{later}"
    if job.timeout_seconds is not None:
        yield "timeout", f"{job.timeout_seconds} s"
    if job.retry_of is not None:
        yield "retry of", job.retry_of
    if request.idempotency_key is not None:
        yield "key", request.idempotency_key
    for name, value in request.meta.items():
        yield "meta", f"{name}: {value}"


def _step_lines(number: int, step: StepRecord) -> Iterator[str]:
    yield f"step {number:<7} {printable(step.container, keep='')}"
    for count, attempt in enumerate(step.attempts, 1):
        yield f"  attempt {count:<2} {printable(_attempt(attempt), keep='')}"
    yield f"  {_result(step.result)}" if step.result is not None else "  no result yet"


def _attempt(attempt: Attempt) -> str:
    took = duration_text(attempt.finished_at - attempt.started_at)
    where = f" in {attempt.instance}" if attempt.instance else ""
    status = f" {attempt.status}" if attempt.status is not None else ""
    end = "" if attempt.failure is None else f": {attempt.kind or 'error'}{status}: {attempt.failure}"
    return f"{time_text(attempt.started_at)} {took}{where}{end}"


def _result(result: ContainerResult) -> str:
    if isinstance(result, ContainerError):
        return printable(f"error      {result.container}: {result.error} ({result.kind})", keep="")
    return f"output     {_payload(result.output)}"


def _payload(payload: msgspec.Raw) -> str:
    return printable(bytes(payload).translate(LINE_ENDS).decode(errors=DECODING), keep="\t")
