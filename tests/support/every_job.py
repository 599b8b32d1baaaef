"""Jobs of every kind that a store can hold: all states and ends, retries, nulls, long numbers, hostile texts."""

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from nodekit import ContainerError, ContainerOutput, Job, JobStatus, JobTable, Location, Outcome
from nodekit.testing import make_attempt, make_job, with_output

HOSTILE = "\x1b[2J\u202eevil\nsecond line"
LONG_NUMBER = msgspec.Raw(b'{"n": 1.000000000000000000000000001,\n "n": 12345678901234567890123, "e": 1E400}')


def _ended(job: Job, status: JobStatus = JobStatus.SUCCESS, text: str | None = None) -> Job:
    error = None if text is None else ContainerError(container="echo", error=text, kind="status", status=500)
    return job.finished(Outcome(status, error), job.accepted_at + 2.5)


def _failed_by_step(job: Job) -> Job:
    error = ContainerError(container="reverse", error=HOSTILE, kind="status", status=500)
    attempt = make_attempt(kind="status", failure=HOSTILE)
    return replace(job, due="reverse").with_result(error, attempt).finished(Outcome(JobStatus.FAILED), job.accepted_at)


def retry_of(old: Job) -> Job:
    """Return a new job that retries one from the step that failed."""
    request = old.request.again(address=None, priority=None, idempotency_key=None, body_digest=None)
    return replace(replace(make_job(), request=request).retrying(old, "failed"), due="reverse")


def every_job() -> Sequence[Job]:
    """Return the jobs, the oldest first. Finished ones have numbers that are not in the order of their ids."""
    null = msgspec.Raw(b"null")
    jobs = [
        make_job("echo", data={"n": 1}),
        make_job("echo", client="bob", group="team", priority=0, idempotency_key="k1", meta={"order": "17"}),
        with_output(make_job("echo", "reverse", data=LONG_NUMBER), LONG_NUMBER, due="reverse"),
        with_output(make_job("echo", "echo"), null),
        _ended(with_output(make_job("echo", client="bob", idempotency_key="k2"), LONG_NUMBER)),
        _ended(with_output(make_job("echo", data={"large": "x" * 30_000}), {"large": "y" * 60_000})),
        _ended(make_job("echo"), JobStatus.CANCELLED),
        _ended(make_job("echo", client=HOSTILE), JobStatus.FAILED, HOSTILE),
        failed := _failed_by_step(with_output(with_output(make_job("echo", "echo", "reverse"), null), {"kept": 1})),
        with_output(make_job("echo", destination=Location.STREAM), {"of": "a stream"}),
    ]
    broken = jobs[0].with_failure("echo", make_attempt(kind="connection", failure="refused"))
    jobs[0] = replace(broken, not_before=broken.accepted_at + 3600, delay_seconds=3600.0)
    jobs.append(retry_of(failed))
    jobs.append(_ended(with_output(retry_of(failed), {"at": "last"})))
    given = ContainerOutput(container="elsewhere", output=msgspec.Raw(b'{"told": true}'))
    jobs.append(make_job("echo").finished(Outcome(JobStatus.SUCCESS, given), 12.0))
    numbers = iter(range(5000, 0, -7))
    return [replace(job, finish_number=next(numbers)) if job.status.finished else job for job in jobs]


async def write_jobs(table: JobTable, jobs: Sequence[Job]) -> None:
    """Write jobs into a table that is entered, as a node does: a step at a time."""
    for job in jobs:
        taken = job.steps if job.retry_of is not None else ()
        known = next((old for old in jobs if old.id == job.retry_of), None)
        start = taken[: known.ended_steps] if known is not None else ()
        start = tuple(step for step, old in zip(start, known.steps if known else (), strict=False) if step == old)
        due = job.request.containers[min(len(start), len(job.request.containers) - 1)]
        now = replace(
            job, steps=start, status=JobStatus.ACCEPTED, due=due, outcome=None, finished_at=None, finish_number=None
        )
        await table.add([replace(now, not_before=None, delay_seconds=None)])
        for count in range(len(start) + 1, len(job.steps) + 1):
            await table.save(replace(now, status=JobStatus.RUNNING, steps=job.steps[:count]))
        await table.save(job)
