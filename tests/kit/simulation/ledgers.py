"""A ledger whose time a test sets, and the calls and jobs that are noted in it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import msgspec
import pytest

from nodekit import ContainerError, ContainerOutput, Job, JobStatus, NodeLimits, Outcome
from nodekit.testing import make_attempt, make_job
from nodekit.testing.simulation import PromiseBroken
from nodekit.testing.simulation.containers import Call
from nodekit.testing.simulation.ledger import Ledger
from nodekit.testing.simulation.workload import PlannedJob, Script, ScriptedOutput, encode

LEASE_SECONDS = 3.0


@contextmanager
def breaks(promise: str) -> Iterator[None]:
    """Check that a promise is broken."""
    with pytest.raises(PromiseBroken) as broken:
        yield
    assert broken.value.promise == promise


class Book:
    """A ledger, and the time that it reads."""

    def __init__(self, *, limits: NodeLimits | None = None, jobs: Sequence[PlannedJob] = ()) -> None:
        self.now = 10.0
        self.ledger = Ledger(
            lambda: self.now, LEASE_SECONDS, limits or NodeLimits(), {one.key: one for one in jobs or [planned_job()]}
        )
        self._numbers = count(1)

    def call(
        self, job: Job, step: int = 0, *, node: str = "node-1#1", container: str = "a", after: int = 0, key: str = "job"
    ) -> Call:
        """Return a call that begins now; nobody was told of it yet."""
        return Call(next(self._numbers), job.id, step, container, node, self.now, after, key)

    def began(self, job: Job, step: int = 0, *, node: str = "node-1#1", after: int = 0) -> Call:
        call = self.call(job, step, node=node, after=after)
        self.ledger.call_began(call)
        return call

    def ended(self, call: Call, *, retry_after: float | None = None) -> None:
        call.ended_at, call.retry_after = self.now, retry_after


def scripted(steps: int = 1, **more: Any) -> Job:
    """Return an accepted job of these steps with a script, which `more` completes."""
    return make_job(*["a"] * steps, data=msgspec.Raw(encode(Script(key="job", seconds=[0] * steps, **more))))


def planned_job(
    key: str = "job",
    *,
    at: float = 0.0,
    client: str = "client-0",
    then: str = "wait",
    priority: int = 3,
    poison: int | None = None,
) -> PlannedJob:
    return PlannedJob(at, client, ("a",), Script(key=key, seconds=[0], poison=poison), then, priority)


def after(job: Job, call: Call) -> Job:
    """Return a job after the output of a call."""
    output = msgspec.Raw(encode(ScriptedOutput(Script(key=call.key, seconds=[0]), call.number, call.after)))
    return job.with_result(ContainerOutput(container="a", output=output, instance=call.node), make_attempt())


def failed(job: Job, kind: Any = "status") -> Job:
    """Return a job whose step failed, and the job with it."""
    error = ContainerError(container="a", kind=kind, error="on purpose")
    return job.with_result(error, make_attempt(kind=kind, failure="on purpose")).finished(
        Outcome(JobStatus.FAILED), 20.0
    )


def poisoned(job: Job) -> Job:
    """Return a job that its store failed because it was lost too often. No step of it failed."""
    return job.finished(Outcome(JobStatus.FAILED, ContainerError(container="a", kind="poison", error="lost")), 20.0)


def finished(job: Job, status: JobStatus = JobStatus.SUCCESS, *, at: float = 20.0) -> Job:
    return job.finished(Outcome(status), at)
