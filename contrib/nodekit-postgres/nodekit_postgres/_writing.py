"""The parameters of writes."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any
from uuid import UUID

from nodekit import Job, JobState, Location
from nodekit_postgres._rows import (
    OUTPUT,
    Row,
    arrays,
    end_columns,
    key_of,
    octets,
    request_row,
    step_rows,
)

ADD = """
    SELECT * FROM nodekit.add_jobs(
        %(shard)s, %(session)s::uuid, %(token)s::uuid,
        %(ids)s::bytea[], %(clients)s::bytea[], %(keys)s::bytea[], %(statuses)s::text[], %(states)b::bytea[],
        %(requests)b::bytea[], %(steps)s::integer[], %(retried)s::bytea[], %(dues)s::bytea[], %(pipelines)s::bytea[],
        %(priorities)s::smallint[], %(groups)s::bytea[], %(onchain)s::boolean[], %(streams)s::boolean[],
        %(not_before)s::double precision[], %(delays)s::double precision[], %(timeouts)s::double precision[],
        %(queue_timeouts)s::double precision[], %(attempts)s::integer[],
        %(owners)s::integer[], %(numbers)s::integer[], %(kinds)s::smallint[], %(outlines)b::bytea[],
        %(outputs)b::bytea[]
    )
"""
SAVE = """
    SELECT nodekit.save_job(
        %(shard)s, %(id)s, %(token)s, %(status)s, %(state)b, %(steps)s, %(attempt)s, %(due)s, %(queue_timeout)s,
        %(delay)s, %(numbers)s::integer[], %(kinds)s::smallint[], %(outlines)b::bytea[], %(outputs)b::bytea[],
        %(outcome_bytes)s, %(error_container)s, %(error)s, %(finished_at)s
    )
"""
SETTLE = """
    SELECT nodekit.settle_job(
        %(shard)s, %(id)s, %(revision)s, %(status)s, %(state)b, %(steps)s, %(outcome_bytes)s, %(error_container)s,
        %(error)s, %(finished_at)s, %(orphan)s
    )
"""


MOST_AT_ONCE, MOST_BYTES_AT_ONCE = 100, 1 << 20
"""Jobs, and bytes of their data, that one statement adds."""


def portions(jobs: Sequence[Job]) -> Iterator[Sequence[Job]]:
    """Yield the jobs in parts that one statement adds."""
    first, size = 0, 0
    for place, job in enumerate(jobs):
        bytes_of_job = len(memoryview(job.request.data))
        if place > first and (place - first >= MOST_AT_ONCE or size + bytes_of_job > MOST_BYTES_AT_ONCE):
            yield jobs[first:place]
            first, size = place, 0
        size += bytes_of_job
    yield jobs[first:]


def added(jobs: Sequence[Job], *, session: UUID | None = None, token: UUID | None = None) -> dict[str, Any]:
    """Return the parameters of `ADD`, without the shard."""
    rows = [
        [Row(0, OUTPUT, b"", bytes(job.request.data)), *step_rows(job, 0, copies=job.retry_of is not None)]
        for job in jobs
    ]
    return {
        "session": session,
        "token": token,
        "ids": [octets(job.id) for job in jobs],
        "clients": [octets(job.client) for job in jobs],
        "keys": [key_of(job.request) for job in jobs],
        "statuses": [str(job.status) for job in jobs],
        "states": [JobState.encoded(job) for job in jobs],
        "requests": [request_row(job.request) for job in jobs],
        "steps": [job.ended_steps for job in jobs],
        "retried": [None if job.retry_of is None else octets(job.retry_of) for job in jobs],
        "dues": [octets(job.due or "") for job in jobs],
        "pipelines": [octets(job.request.pipeline) for job in jobs],
        "priorities": [job.request.priority for job in jobs],
        "groups": [octets(job.group) for job in jobs],
        "onchain": [job.request.onchain for job in jobs],
        "streams": [job.request.destination is Location.STREAM for job in jobs],
        "not_before": [job.not_before for job in jobs],
        "delays": [job.delay_seconds for job in jobs],
        "timeouts": [job.timeout_seconds for job in jobs],
        "queue_timeouts": [job.queue_timeout_seconds for job in jobs],
        "attempts": [job.attempt for job in jobs],
        "owners": [place for place, some in enumerate(rows, 1) for _ in some],
        **arrays(list(chain.from_iterable(rows))),
    }


def _state(job: Job) -> dict[str, Any]:
    return {
        "id": octets(job.id),
        "status": str(job.status),
        "state": JobState.encoded(job),
        "steps": job.ended_steps,
        **end_columns(job),
    }


def saved(job: Job, stored_steps: int, token: UUID, delay_seconds: float | None) -> dict[str, Any]:
    """Return the parameters of `SAVE`, without the shard. A delay gives the job back to the queue."""
    return {
        "token": token,
        "attempt": job.attempt,
        "due": octets(job.due or ""),
        "queue_timeout": job.queue_timeout_seconds,
        "delay": delay_seconds,
        **_state(job),
        **arrays(list(step_rows(job, stored_steps))),
    }


def settled(job: Job, revision: int, *, orphan: bool) -> dict[str, Any]:
    """Return the parameters of `SETTLE`, without the shard."""
    return {"revision": revision, "orphan": orphan, **_state(job)}


def seconds_left(jobs: Sequence[Job], now: float) -> float | None:
    """Return the time until the first time limit of queued jobs may be over; None if they have none."""
    limits = [job.accepted_at + job.timeout_seconds - now for job in jobs if job.timeout_seconds is not None]
    limits += [job.queue_timeout_seconds for job in jobs if job.queue_timeout_seconds is not None]
    return min(limits, default=None)
