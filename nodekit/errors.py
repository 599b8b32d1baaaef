"""Errors that nodekit raises on purpose.

Every error is a ``NodekitError``, carries its facts as attributes, and says in its message what to do.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from nodekit.foreign_text import printable

FailureKind: TypeAlias = Literal[
    "connection",  # refused, reset or dropped before the reply was complete
    "timeout",  # no reply within the container's `timeout_seconds`
    "job_timeout",  # the job was not finished within the node's `job_timeout_seconds`
    "queue_timeout",  # the job waited in the queue for longer than `queue_timeout_seconds`
    "status",  # an HTTP error status, an exception of a function container, or a program's exit code
    "not_json",  # a reply that is not JSON, or JSON that nodekit does not accept
    "too_large",  # a reply over the runner's limit
    "died",  # the container's program ended while it held the step
    "poison",  # the nodes that ran the job lost their claims of it `max_takeovers` times in a row
    "cancelled",  # the job was cancelled
    "interrupted",  # the node went away, or its container together with it; only a stream ends so
    "internal",  # a fault of a runner, a pipeline or nodekit itself; the log has it
]


class NodekitError(Exception):
    """Base of all errors that nodekit raises on purpose."""


class Problem(msgspec.Struct, frozen=True):
    """One problem of a composition, and the cure.

    - `where`: Key path in a node file (``runners[0].containers[1].url``) or the component's name; may be empty.
    """

    where: str
    text: str

    def __str__(self) -> str:
        where, text = _line(self.where, LONGEST_WHERE), _line(self.text, LONGEST_TEXT)
        return f"{where}: {text}" if where else text


LONGEST_WHERE = 400
LONGEST_TEXT = 2000
"""Maximum numbers of characters of a problem that are shown. Keys and values come from a file."""


def _line(text: str, longest: int) -> str:
    """Return a text without what terminals act on, and not longer than a reader needs."""
    if len(text) > longest:
        text = f"{text[:longest]}…"
    return printable(text, keep="\n")


class CompositionError(NodekitError):
    """The components, plugins or settings of a node do not fit together. Nothing was acquired."""

    def __init__(self, problems: "str | Problem | Iterable[Problem]") -> None:
        if isinstance(problems, str):
            problems = Problem("", problems)
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class Refusal(NodekitError):
    """A request was understood and is refused. Guards and pipelines raise it; the client gets it unchanged.

    Clients get `reason` and `params`. The error's text has both, for readers of a log.
    """

    def __init__(self, reason: str, /, **params: Any) -> None:
        self.reason = reason
        self.params = params
        super().__init__(reason)

    def __str__(self) -> str:
        shown = ", ".join(f"{name}={repr(value)[:100]}" for name, value in self.params.items())
        return f"{self.reason} ({shown})" if shown else str(self.reason)


class Unavailable(NodekitError):
    """The node takes no work right now: it is draining, or holds `max_pending` jobs. Try again later."""

    def __init__(self, reason: str, *, retry_after_seconds: int) -> None:
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds
        super().__init__(reason)


class TooManyJobs(Unavailable):
    """The client has reached its limit of unfinished jobs; other clients' jobs are accepted. Try again later."""


class TooMuchStored(Unavailable):
    """The store holds as much for the client as it may; other clients' jobs are accepted. Try again when jobs of it are
    deleted."""


class TooManyRequests(Unavailable):
    """The client sends requests too often; other clients' requests are accepted. Try again later."""


class Unauthorized(NodekitError):
    """The caller did not say who it is, or not so that it can be believed. Clients get `reason`.

    `challenge` says how to do so, as in the header ``WWW-Authenticate`` of HTTP (RFC 9110, 11.6.1).
    """

    def __init__(self, reason: str, *, challenge: str = "Bearer") -> None:
        self.reason = reason
        self.challenge = challenge
        super().__init__(reason)


class Forbidden(NodekitError):
    """The caller is known and may not do this. Clients get `reason`."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class KeyReused(NodekitError):
    """The client used this idempotency key before, for another request. Make a new key for each new request."""

    def __init__(self) -> None:
        super().__init__("the idempotency key was used with another request before; make a new key for each request")


class VersionConflict(NodekitError):
    """A record of a plugin has another version than the change expects: somebody else has changed it. Read it again.

    `expected` and `found` are versions; 0: there is no record.
    """

    def __init__(self, key: str, *, expected: int, found: int) -> None:
        self.key, self.expected, self.found = key, expected, found
        if not expected:
            text = f"there is a record {key!r} already, of version {found}"
        elif not found:
            text = f"there is no record {key!r} any more; its version {expected} was expected"
        else:
            text = f"the record {key!r} has the version {found}, not {expected}; read it again"
        super().__init__(text)


class InvalidRecord(NodekitError):
    """A key, a value or a batch that no store accepts. The message says why."""


class NotFailed(NodekitError):
    """The job has no failed step, so it cannot be retried. The message says what to do instead.

    The job is unfinished or was successful. Or all its outputs exist and its pipeline, or its node, ended it after the
    last one, and would do so again: then it can be retried from the start only.
    """

    def __init__(self, status: str, cure: str = "only a failed or cancelled job can be retried") -> None:
        self.status = status
        super().__init__(f"the job is {status}; {cure}")


class ContainerFailed(NodekitError):
    """A container gave no output for a step. Runners raise this error and no other.

    `text` is for clients: it says which failure it was, and is never empty. It has nothing of what a program printed,
    which may be about jobs of other clients. `status` is the HTTP status, if there was one. `retry_after` is in
    seconds, if the container asked for a pause.
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
    """A container did not start with the node. The message has the reason and the last lines its program printed.

    It is for operators: a program may print what no client may see.

    `exit_code` is set if the program ended; if negative, it is the signal that killed it. `others` are the failures of
    other containers that did not start either. The message has them, too; `text` is about this container only.
    """

    def __init__(
        self,
        container: str,
        reason: str,
        exit_code: int | None = None,
        last_lines: Sequence[str] = (),
        others: Sequence[NodekitError] = (),
    ) -> None:
        self.container = container
        self.reason = reason
        self.exit_code = exit_code
        self.last_lines = tuple(last_lines)
        self.others = tuple(others)
        printed = "".join(f"\n  | {printable(line)}" for line in last_lines)
        if exit_code is not None and not printed:
            printed = " (it printed nothing)"
        self.text = f"container {container!r} did not start: {reason}{printed}"
        super().__init__("\n".join([self.text, *map(str, others)]))

    def beside(self, others: Sequence[NodekitError]) -> "NotStarted":
        """Return the same failure with those of others."""
        all_others = (*self.others, *others)
        return NotStarted(self.container, self.reason, self.exit_code, self.last_lines, all_others)


class ClaimLost(NodekitError):
    """The claim is no longer valid: the job was cancelled, settled or taken over. Drop the work."""


class StoreFailed(NodekitError):
    """A store could not write or read; nothing of the call was stored. The message has the reason, e.g. a full disk."""


class StoreInUse(StoreFailed):
    """Another node holds this store."""


class InvalidPayload(NodekitError):
    """Bytes are not JSON as nodekit accepts it. The message has the reason."""


class PluginDeprecationWarning(FutureWarning):
    """A plugin, or a node file, uses something that the next version of the plugin API will not have.

    The text names the user, the feature and the cure. Operators see it, because they update packages.
    """
