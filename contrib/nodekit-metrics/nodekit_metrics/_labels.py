"""Values of labels. Each is one series for Prometheus to keep, so there may never be more than a few."""

from collections.abc import Container

from nodekit import JobStatus, KeyReused, NotFailed, Refusal, RequestRefused, TooManyJobs, TooManyRequests

OTHER = "other"
OUTCOMES = (JobStatus.SUCCESS, JobStatus.FAILED, JobStatus.CANCELLED)

LONGEST_REASON = 100

_KINDS: tuple[tuple[type[Exception], str], ...] = (
    (TooManyRequests, "too many requests"),
    (TooManyJobs, "too many jobs"),
    (KeyReused, "idempotency key reused"),
    (NotFailed, "job has not failed"),
)


def container_label(id: str, known: Container[str]) -> str:
    """The id, where the node has such a container: a name that somebody else made up is not told."""
    return id if id in known else OTHER


class Reasons:
    """Why requests are refused: guards may give any reason, of which the first few are told apart."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: set[str] = set()

    def label(self, event: RequestRefused) -> str:
        objection = event.objection
        if not isinstance(objection, Refusal):  # their texts have numbers in them
            return next((label for kind, label in _KINDS if isinstance(objection, kind)), "unavailable")
        reason = objection.reason
        if len(reason) > LONGEST_REASON or (reason not in self._seen and len(self._seen) >= self._most):
            return OTHER
        self._seen.add(reason)
        return reason
