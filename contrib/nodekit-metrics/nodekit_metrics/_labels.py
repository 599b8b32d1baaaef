"""Values of labels. Prometheus keeps a series for each, so there must never be more than a few."""

from collections.abc import Container

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
