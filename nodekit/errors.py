"""What nodekit raises on purpose.

Every error is a ``NodekitError``, carries its facts as attributes, and says in its message what to do.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

FailureKind: TypeAlias = Literal[
    "connection",  # refused, reset or dropped before the reply was complete
    "timeout",  # no reply within the container's `timeout_seconds`
    "job_timeout",  # the job was not finished within the node's `job_timeout_seconds`
    "queue_timeout",  # the job waited in the queue for longer than `queue_timeout_seconds`
    "status",  # an HTTP error status, an exception of a function container, or a program's exit code
    "not_json",  # a reply that is not JSON, or JSON that nodekit does not accept
    "too_large",  # a reply over the runner's limit
    "died",  # the container's program ended while it held the step
    "cancelled",  # the job was cancelled
    "interrupted",  # the node that held a stream went away
    "internal",  # a fault of a runner, a pipeline or nodekit itself; the log has it
]


class NodekitError(Exception):
    """The base of all errors that nodekit raises on purpose."""


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong with a composition, and the cure."""

    where: str
    """The key path in a node file (``runners[0].containers[1].url``) or the part's name; may be empty."""
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}" if self.where else self.text


class CompositionError(NodekitError):
    """The parts, plugins or settings of a node do not fit together. Nothing was acquired."""

    def __init__(self, problems: "str | Problem | Iterable[Problem]") -> None:
        if isinstance(problems, str):
            problems = Problem("", problems)
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class Refusal(NodekitError):
    """A request was understood and is refused; raised by guards and pipelines, told to the client as it is.

    Clients are told `reason` and `params`; as text it is both, for whoever reads a log.
    """

    def __init__(self, reason: str, /, **params: Any) -> None:
        self.reason = reason
        self.params = params
        super().__init__(reason)

    def __str__(self) -> str:
        told = ", ".join(f"{name}={repr(value)[:100]}" for name, value in self.params.items())
        return f"{self.reason} ({told})" if told else str(self.reason)


class Unavailable(NodekitError):
    """The node takes no work right now: it is draining, or holds `max_pending` jobs. Try again later."""

    def __init__(self, reason: str, *, retry_after_seconds: int) -> None:
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds
        super().__init__(reason)


class TooManyJobs(Unavailable):
    """The client holds as many unfinished jobs as it may; other clients' are taken. Try again later."""


class TooManyRequests(Unavailable):
    """The client asks more often than it may; other clients' requests are taken. Try again later."""


class KeyReused(NodekitError):
    """The client used this idempotency key before, for another request. Make a new key for each new request."""

    def __init__(self) -> None:
        super().__init__("the idempotency key was used with another request before; make a new key for each request")


class NotFailed(NodekitError):
    """The job has no step that failed, so that it is not retried. The message says what to do instead.

    It is not finished or was successful; or its outputs were all there and its pipeline, or its node, ended it after
    the last one, and would again: it can be retried from the start only.
    """

    def __init__(self, status: str, cure: str = "only one that failed or was cancelled can be retried") -> None:
        self.status = status
        super().__init__(f"the job is {status}; {cure}")


class ContainerFailed(NodekitError):
    """A container did not give an output for a step; raised by runners, and nothing else is.

    `text` is what clients read: it says which failure it was, and is never empty.
    `status` is the HTTP status where there was one; `retry_after` is in seconds, where the container asked for it.
    """

    def __init__(
        self, kind: FailureKind, text: str, *, status: int | None = None, retry_after: float | None = None
    ) -> None:
        self.kind: FailureKind = kind
        self.text = text or f"the container failed ({kind})"
        self.status = status
        self.retry_after = retry_after
        super().__init__(self.text)


class NotStarted(NodekitError):
    """A container did not come up with the node. The message says why and what its program printed last.

    `exit_code` is that of a program that ended; negative: the signal that killed it.
    """

    def __init__(
        self, container: str, reason: str, exit_code: int | None = None, last_lines: Sequence[str] = ()
    ) -> None:
        self.container = container
        self.reason = reason
        self.exit_code = exit_code
        self.last_lines = tuple(last_lines)
        printed = "".join(f"\n  | {line}" for line in last_lines)
        if exit_code is not None and not printed:
            printed = " (it printed nothing)"
        super().__init__(f"container {container!r} did not start: {reason}{printed}")


class ClaimLost(NodekitError):
    """The claim is no longer worth anything: the job was cancelled, settled or taken over. Drop the work."""


class StoreFailed(NodekitError):
    """A store could not keep or read; nothing of the call was kept. The message says why, e.g. a full disk."""


class StoreInUse(StoreFailed):
    """Another node holds this store."""


class InvalidPayload(NodekitError):
    """Bytes that are not JSON as nodekit accepts it; the message says why."""


class PluginDeprecationWarning(FutureWarning):
    """A plugin, or a node file, uses what the next version of the plugin API will not have.

    The text names who uses what, and the cure. Operators see it: they are the ones who update packages.
    """
