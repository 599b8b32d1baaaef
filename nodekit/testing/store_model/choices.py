"""Values for random trials of a store, and their choice by bytes."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from nodekit import (
    FINISHED,
    UNFINISHED,
    UNSUCCESSFUL,
    ContainerError,
    ContainerOutput,
    JobId,
    JobStatus,
    Location,
    Outcome,
)
from nodekit.testing.builders.jobs import make_request

T = TypeVar("T")

CLIENTS = ("alice", "bob", "carol")
CONTAINERS = (("x",), ("y",), ("x", "y"), ("x", "y", "z"), ("z",), ())
ORIGINS = (Location.OFFCHAIN, Location.OFFCHAIN, Location.ONCHAIN)
PRIORITIES = (3, 3, 3, 0, 7)
LIMITS = (1, 2, 3, 50)
TIME_LIMITS = *[(None, None)] * 4, (15.0, None), (None, 15.0), (205.0, 25.0), (1005.0, 105.0)
"""Time limits of the job and in the queue. They differ from all times that pass, so the first one to end is certain."""
PASSED_SECONDS = (10, 10, 100, 1000)
DELAYS = (0, 1000, 10, 100)
OUTCOMES = (
    Outcome(JobStatus.CANCELLED),
    Outcome(JobStatus.FAILED, ContainerError(container="x", error="reported from outside", kind="status", status=500)),
    Outcome(JobStatus.SUCCESS, ContainerOutput(container="x", output=make_request(data=[1]).data)),
)
CONDITIONS: Mapping[str, Sequence[Any]] = {
    "client": CLIENTS,
    "status": (UNFINISHED, FINISHED, UNSUCCESSFUL, (JobStatus.FAILED, JobStatus.ACCEPTED), ()),
    "idempotency_key": ("k", ""),
    "container": ("x", "y"),
    "error": ("", "reply", "reported from", "Reported"),
}
"""Conditions of `find`; each may be left out."""
NEW, OLDER, KNOWN = "new", "older than the last", "known"
NEXT = ("attempt failed", "output", "finished", "unchanged", "error", "failed")
"""Next states of a claimed job."""
OPERATIONS = (
    *("nothing", "claim", "claim", "claim", "claim", "claim", "claim", "add", "add", "add", "add", "add", "add"),
    *("save", "save", "save", "save", "save", "release", "release", "release", "settle", "settle", "delete"),
    *("get", "find", "find", "add_stream", "claim_expired", "claim_expired", "claim_and_cancel", "advance", "advance"),
    *("jump", "reopen", "reopen"),
)


class Choices:
    """Choices by bytes; the first value once the bytes are used up."""

    def __init__(self, chosen: bytes) -> None:
        self._bytes = iter(chosen)

    def of(self, values: Sequence[T]) -> T:
        return values[next(self._bytes, 0) % len(values)]


def id_of(serial: int) -> JobId:
    """Make an id; ids sort like their numbers."""
    return f"{serial:08x}-0000-7000-8000-000000000000"
