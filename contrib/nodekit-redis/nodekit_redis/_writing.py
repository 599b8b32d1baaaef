"""The arguments of scripts that write jobs, and the commands that bring their payloads before."""

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from nodekit import Job, JobId, JobState, Location
from nodekit_redis._address import Command
from nodekit_redis._rows import end_facts, key_field, optional, quoted, request_fields, step_fields


def added(
    jobs: Sequence[Job], now: float, key_of: Any, session: str = "", token: str = "", *, own: bool = False
) -> tuple[list[Command], list[Any]]:
    """Return the commands and arguments that add jobs.

    With a session, they are claimed, too. With `own`, claims of other nodes are not woken.
    """
    before: list[Command] = []
    arguments: list[Any] = [session, token, int(own), len(jobs)]
    call = uuid4().hex
    for number, job in enumerate(jobs):
        name = f"{call}.{number}"
        fields, marks, copied = step_fields(job, 0, name, copies=job.retry_of is not None)
        request = job.request
        before.append(("HSET", key_of(f"job:{job.id}"), *request_fields(request, name), *fields))
        arguments += (
            job.id,
            name,
            quoted(job.client),
            key_field(job.client, request.idempotency_key),
            quoted(job.group),
            int(request.onchain),
            request.priority,
            quoted(request.pipeline),
            int(request.destination is Location.STREAM),
            quoted(job.due or ""),
            JobState.encoded(job),
            marks,
            repr(_delay(job, now)),
            optional(job.timeout_seconds),
            optional(job.queue_timeout_seconds),
            job.attempt,
            job.retry_of or "",
            ",".join(map(str, copied)),
        )
    return before, arguments


def _delay(job: Job, now: float) -> float:
    """Return the time until a new job is due; no longer than its delay, in case the clock has jumped."""
    if job.not_before is None:
        return 0.0
    delay = job.not_before - now
    return max(0.0, delay if job.delay_seconds is None else min(delay, job.delay_seconds))


def saved(
    job: Job, known_steps: int, token: str, mode: str, delay_seconds: float, key_of: Any
) -> tuple[list[Command], list[Any]]:
    """Return the commands and arguments that store the newer state of a claimed job."""
    name = uuid4().hex
    fields, marks, _ = step_fields(job, known_steps, name)
    before: list[Command] = [("HSET", key_of(f"job:{job.id}"), *fields)] if fields else []
    arguments = [job.id, token, name, mode, JobState.encoded(job), known_steps, marks, quoted(job.due or "")]
    arguments += [optional(job.queue_timeout_seconds), job.attempt, repr(delay_seconds), *end_facts(job)]
    return before, arguments


def settled(id: JobId, revision: int, job: Job) -> list[Any]:
    """Return the arguments that end a job without a claim."""
    return [id, revision, JobState.encoded(job), *end_facts(job)]
