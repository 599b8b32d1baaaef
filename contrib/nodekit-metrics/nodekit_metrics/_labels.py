"""Values of labels. Prometheus keeps a series for each, so there must never be more than a few."""

from collections.abc import Container
from ipaddress import ip_address

from nodekit import (
    JobStatus,
    KeyReused,
    NotFailed,
    Refusal,
    RequestRefused,
    TooManyJobs,
    TooManyRequests,
    TooMuchStored,
)

OTHER = "other"
OUTCOMES = (JobStatus.SUCCESS, JobStatus.FAILED, JobStatus.CANCELLED)

LONGEST_REASON = 100

_KINDS: tuple[tuple[type[Exception], str], ...] = (
    (TooManyRequests, "too many requests"),
    (TooManyJobs, "too many jobs"),
    (TooMuchStored, "too much stored"),
    (KeyReused, "idempotency key reused"),
    (NotFailed, "job has not failed"),
)


def container_label(id: str, known: Container[str]) -> str:
    """Return the id if the node has such a container, otherwise `OTHER`, so that clients cannot make up labels."""
    return id if id in known else OTHER


class Clients:
    """Labels for clients. Only the first few named ones get a label of their own.

    Anybody can come from many addresses, so a client that is known by its address gets none.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: set[str] = set()

    def label(self, client: str) -> str:
        if client in self._seen:
            return client
        if len(self._seen) >= self._most or client == "unix" or _is_address(client):
            return OTHER
        self._seen.add(client)
        return client


def _is_address(client: str) -> bool:
    if ":" in client:  # of IPv6, or the peer of another server
        return True
    try:
        ip_address(client)
    except ValueError:
        return False
    return True


class Reasons:
    """Labels for the reasons of refusals. Guards may give any reason; only the first few get a label of their own."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: set[str] = set()

    def label(self, event: RequestRefused) -> str:
        objection = event.objection
        if not isinstance(objection, Refusal):  # other errors have numbers in their texts
            return next((label for kind, label in _KINDS if isinstance(objection, kind)), "unavailable")
        reason = objection.reason
        if len(reason) > LONGEST_REASON or (reason not in self._seen and len(self._seen) >= self._most):
            return OTHER
        self._seen.add(reason)
        return reason
