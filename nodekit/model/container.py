"""Containers, the steps that call them, and what comes of it."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from nodekit.errors import FailureKind
from nodekit.model.payload import decode_payload

ContainerId: TypeAlias = str
JobId: TypeAlias = str
"""A UUID of version 7 as text; ids sort as they were given."""
ClientId: TypeAlias = str


RetryableKind: TypeAlias = Literal["connection", "timeout", "died"]


class Retry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How often a step is tried, after which failures, and how long it waits in between.

    The pause before attempt *n* + 1 is drawn from 0 to `first_delay_seconds` × 2ⁿ⁻¹, at most `longest_delay_seconds`
    (exponential backoff with full jitter), and not shorter than what a `Retry-After` of the container asked for.
    """

    attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    """In all; 1: it is not tried again. Each stands in the job's history, which is written anew with each."""
    failures: tuple[RetryableKind, ...] = ("connection", "timeout", "died")
    """Kinds of failures after which it is."""
    statuses: tuple[Annotated[int, msgspec.Meta(ge=100, le=599)], ...] = (408, 425, 429, 500, 502, 503, 504)
    """HTTP statuses after which it is."""
    first_delay_seconds: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    longest_delay_seconds: Annotated[float, msgspec.Meta(ge=0)] = 60.0
    longest_retry_after_seconds: Annotated[float, msgspec.Meta(ge=0, le=31_536_000)] = 3600.0
    """A container that asks to be left alone for longer is not tried again."""


class Container(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named service that a runner can call. Runners extend it with what they need to run one."""

    id: Annotated[ContainerId, msgspec.Meta(min_length=1)]
    image: str = ""
    description: str = ""
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0)] = 180.0
    """How long one call may take."""
    queue_timeout_seconds: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """How long a job may wait in the queue for it; as long as the node says unless said."""
    retry: Retry = Retry()
    """Whether a call that failed is tried again."""
    concurrency: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """How many steps may run in it at once; as many as the node's unless said."""
    when_down: Literal["wait", "fail"] = "wait"
    """What a job does when this container is due and not running: stay in the queue, or fail at once."""
    rules: Mapping[str, Any] = {}
    """Settings that plugins declare for containers (the guardian's `external`, …): plain JSON values by key."""


class Location(IntEnum):
    """Where data comes from or goes to; the numbers are those of the container protocol."""

    ONCHAIN = 0
    OFFCHAIN = 1
    STREAM = 2


class ContainerInput(msgspec.Struct, frozen=True, kw_only=True):
    """What a container receives. Encoded as JSON, this is the body of ``POST /service_output``."""

    source: Location
    destination: Location
    data: msgspec.Raw
    requires_proof: bool


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One container call that is due within a job."""

    job_id: JobId
    index: int
    """From 0."""
    attempt: int
    """From 1."""
    container: ContainerId
    input: ContainerInput

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt, so that a container can recognise a repetition."""
        return f"{self.job_id}:{self.index}"


class ContainerOutput(msgspec.Struct, frozen=True, kw_only=True, tag="output", omit_defaults=True):
    """What a container gave for a step."""

    container: ContainerId
    output: msgspec.Raw
    """Any JSON value."""
    instance: str = ""
    """Which running instance gave it (a process, a Docker container), as its runner names them."""

    @property
    def value(self) -> Any:
        """The output decoded. Raises `msgspec.MsgspecError` for a number that no float holds, such as 1e999."""
        return decode_payload(self.output)


class ContainerError(msgspec.Struct, frozen=True, kw_only=True, tag="error", omit_defaults=True):
    """How a step failed for good."""

    container: ContainerId
    error: str
    """For the client to read; never empty."""
    kind: FailureKind = "internal"
    status: int | None = None
    """The HTTP status, where there was one."""


ContainerResult: TypeAlias = ContainerOutput | ContainerError
