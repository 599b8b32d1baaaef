"""Events of a node. What they report about jobs is stored before they are emitted, except that a step starts.

Their jobs may lack all outputs but the last one, which are `LEFT_OUT` then: a running job does not hold them. The store
has them (`Node.fetch`, `Node.steps`).
"""

from typing import TypeAlias

import msgspec

from nodekit.errors import KeyReused, NotFailed, Refusal, Unavailable
from nodekit.model.container import ClientId, Step
from nodekit.model.job import Job, JobRequest, StepRecord


class JobAccepted(msgspec.Struct, frozen=True):
    """A job is stored and queued."""

    job: Job


class StepStarted(msgspec.Struct, frozen=True):
    """A container is about to be called. Unlike the other events, this one is not stored.

    - `step`: The step, with the number of the attempt.
    """

    job: Job
    step: Step


class StepFinished(msgspec.Struct, frozen=True):
    """A step has its result, an output or an error.

    - `job`: The job as it was stored with the result.
    """

    job: Job
    index: int

    @property
    def record(self) -> StepRecord:
        return self.job.steps[self.index]


class JobFinished(msgspec.Struct, frozen=True):
    """A job has ended: success, failed or cancelled."""

    job: Job


class RequestRefused(msgspec.Struct, frozen=True):
    """A client's request was refused, so that there is no job; or it was not examined, because the client must wait.

    Requests that a transport itself refuses, a malformed body for instance, do not reach the node and are not emitted.

    - `objection`: The objection as it was raised or answered.
    - `request`: The request. None if it was not examined.
    """

    client: ClientId
    objection: Refusal | Unavailable | KeyReused | NotFailed
    request: JobRequest | None = None


Event: TypeAlias = JobAccepted | StepStarted | StepFinished | JobFinished | RequestRefused
"""All events. More may come: observers must ignore those they do not know."""


class StoreCall(msgspec.Struct, frozen=True):
    """A node called its store.

    - `method`: One of `add`, `add_claimed`, `save`, `release`, `settle`, `get`, `find`, `delete`, `expire`, `pending`.
    - `seconds`: Duration of the call, by a steady clock.
    - `failed`: True if the call raised. A lost claim is an answer, not a failure.
    """

    method: str
    seconds: float
    failed: bool
