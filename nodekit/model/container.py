"""Containers, the steps that call them, and the results."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from nodekit.errors import FailureKind
from nodekit.model.payload import decode_payload

ContainerId: TypeAlias = str
JobId: TypeAlias = str
"""A UUID of version 7 as text. Ids sort in the order in which they were given."""
ClientId: TypeAlias = str
GroupId: TypeAlias = str
"""Name of clients that share limits and turns."""


RetryableKind: TypeAlias = Literal["connection", "timeout", "died"]


class Retry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Number of tries of a step, the failures that allow another try, and the pauses in between.

    The pause before attempt *n* + 1 is drawn from 0 to `first_delay_seconds` × 2ⁿ⁻¹, at most `longest_delay_seconds`
    (exponential backoff with full jitter), and never shorter than a `Retry-After` of the container.

    - `attempts`: Number of attempts in all; 1: no retry. Each is kept in the job's history, which is written again with
      each.
    - `failures`: Kinds of failures that are retried.
    - `statuses`: HTTP statuses that are retried.
    - `longest_retry_after_seconds`: Maximum `Retry-After` of a container. If it asks for a longer pause, the step is
      not tried again.
    """

    attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    failures: tuple[RetryableKind, ...] = ("connection", "timeout", "died")
    statuses: tuple[Annotated[int, msgspec.Meta(ge=100, le=599)], ...] = (408, 425, 429, 500, 502, 503, 504)
    first_delay_seconds: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    longest_delay_seconds: Annotated[float, msgspec.Meta(ge=0)] = 60.0
    longest_retry_after_seconds: Annotated[float, msgspec.Meta(ge=0, le=31_536_000)] = 3600.0


class Container(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named service that a runner can call. Runners extend it with the settings they need.

    - `timeout_seconds`: Maximum duration of one call.
    - `queue_timeout_seconds`: Maximum time a job waits in the queue for it; the node's limit by default.
    - `retry`: Retries of failed calls.
    - `concurrency`: Maximum number of steps that run in it at once; the node's limit by default.
    - `when_down`: Behaviour of a job when this container is due and not running: stay in the queue, or fail at once.
    - `rules`: Settings that plugins declare for containers (the guardian's `external`, …): plain JSON values by key.
    """

    id: Annotated[ContainerId, msgspec.Meta(min_length=1)]
    image: str = ""
    description: str = ""
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0)] = 180.0
    queue_timeout_seconds: Annotated[float, msgspec.Meta(gt=0)] | None = None
    retry: Retry = Retry()
    concurrency: Annotated[int, msgspec.Meta(ge=1)] | None = None
    when_down: Literal["wait", "fail"] = "wait"
    rules: Mapping[str, Any] = {}


class Location(IntEnum):
    """Source or destination of data. The numbers are those of the container protocol."""

    ONCHAIN = 0
    OFFCHAIN = 1
    STREAM = 2


class ContainerInput(msgspec.Struct, frozen=True, kw_only=True):
    """The input of a container. Encoded as JSON, this is the body of ``POST /service_output``."""

    source: Location
    destination: Location
    data: msgspec.Raw
    requires_proof: bool


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One container call that is due within a job.

    - `index`: Index of the step, from 0.
    - `attempt`: Number of the attempt, from 1.
    - `headers`: HTTP headers that plugins add to the call (`nodekit_step`). Runners that do not call by HTTP ignore
      them.
    """

    job_id: JobId
    index: int
    attempt: int
    container: ContainerId
    input: ContainerInput
    headers: Mapping[str, str] = {}

    @property
    def idempotency_key(self) -> str:
        """Key that is the same for every attempt, so that a container can recognise a repetition."""
        return f"{self.job_id}:{self.index}"


class ContainerOutput(msgspec.Struct, frozen=True, kw_only=True, tag="output", omit_defaults=True):
    """The output of a container for a step.

    - `output`: Any JSON value.
    - `instance`: Running instance that gave it (a process, a Docker container), as its runner names it.
    """

    container: ContainerId
    output: msgspec.Raw
    instance: str = ""

    @property
    def value(self) -> Any:
        """Decoded output. Raise `msgspec.MsgspecError` for a number that no float holds, such as 1e999."""
        return decode_payload(self.output)


class ContainerError(msgspec.Struct, frozen=True, kw_only=True, tag="error", omit_defaults=True):
    """The final failure of a step.

    - `error`: Error text for the client; never empty.
    - `status`: HTTP status, if there was one.
    """

    container: ContainerId
    error: str
    kind: FailureKind = "internal"
    status: int | None = None


ContainerResult: TypeAlias = ContainerOutput | ContainerError
