"""What a node says happened: facts in the past tense; those of jobs are stored before they are told."""

from typing import TypeAlias

import msgspec

from nodekit.errors import KeyReused, NotFailed, Refusal, Unavailable
from nodekit.model.container import ClientId
from nodekit.model.job import Job, StepRecord


class JobAccepted(msgspec.Struct, frozen=True):
    """A job is kept and queued."""

    job: Job


class StepFinished(msgspec.Struct, frozen=True):
    """A step has its result, an output or an error."""

    job: Job
    """As it was stored with the result."""
    index: int

    @property
    def record(self) -> StepRecord:
        return self.job.steps[self.index]


class JobFinished(msgspec.Struct, frozen=True):
    """A job has ended: success, failed or cancelled."""

    job: Job


class RequestRefused(msgspec.Struct, frozen=True):
    """A client's request was refused, so that there is no job; or it was not looked at, because the client must wait.

    What a transport itself refuses, a malformed body for instance, does not reach the node and is not told.
    """

    client: ClientId
    objection: Refusal | Unavailable | KeyReused | NotFailed
    """As it was raised or answered."""


Event: TypeAlias = JobAccepted | StepFinished | JobFinished | RequestRefused
"""More may come: who observes leaves alone what they do not know."""


class StoreCall(msgspec.Struct, frozen=True):
    """A node called its store."""

    method: str
    """One of `add`, `add_claimed`, `save`, `release`, `settle`, `get`, `find`, `delete` and `pending`."""
    seconds: float
    """How long it took, by a steady clock."""
    failed: bool
    """Whether it raised. That a claim was lost is an answer, and no failure."""
