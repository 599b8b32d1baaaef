"""The parts of a node's replies that commands read."""

from datetime import datetime

import msgspec
from msgspec import UNSET, Raw, UnsetType

from nodekit_asgi.cli.client import Reply


class Accepted(msgspec.Struct, frozen=True):
    id: str


class StepResult(msgspec.Struct, frozen=True):
    """An output, or an error."""

    container: str
    output: Raw | UnsetType = UNSET
    error: str | None = None


class JobResult(msgspec.Struct, frozen=True):
    id: str
    status: str
    result: StepResult | None = None
    intermediate_results: list[StepResult] = []

    @property
    def finished(self) -> bool:
        return self.status != "running"


class AttemptRecord(msgspec.Struct, frozen=True):
    started_at: datetime
    duration_seconds: float
    instance: str | None = None
    kind: str | None = None
    error: str | None = None
    status: int | None = None


class CallRecord(msgspec.Struct, frozen=True):
    started_at: datetime
    attempt: int = 1
    node: str = ""
    instance: str = ""


class StepRecord(msgspec.Struct, frozen=True):
    container: str
    attempts: list[AttemptRecord] = []
    error: str | None = None
    running: CallRecord | None = None

    @property
    def has_output(self) -> bool:
        return self.error is None and bool(self.attempts) and self.attempts[-1].error is None


class Failure(msgspec.Struct, frozen=True):
    container: str
    error: str
    kind: str = ""


class History(msgspec.Struct, frozen=True):
    id: str
    status: str
    pipeline: str
    containers: list[str]
    priority: int
    accepted_at: datetime
    steps: list[StepRecord]
    state: str = ""
    finished_at: datetime | None = None
    due: str | None = None
    not_before: datetime | None = None
    failure: Failure | None = None
    retry_of: str | None = None
    client: str | None = None
    meta: dict[str, str] = {}


def jobs_of(reply: Reply) -> list[tuple[JobResult, Raw]]:
    """Return the job results of a reply, each with its bytes as the node sent them."""
    return [(reply.part_as(JobResult, raw), raw) for raw in reply.read_as(list[Raw])]
