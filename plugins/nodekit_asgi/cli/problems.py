"""What ends a command: a line each, which holds the cure, and an exit code."""

from typing import ClassVar

from nodekit import NodekitError

FAILED = 1
"""The job failed, or the node refuses what was asked."""
NO_ANSWER = 4
"""No node answers, or it takes no jobs at the moment: the same command may work later."""
TIME_IS_UP = 5
"""The job goes on, and was not waited for any longer."""
INTERRUPTED = 130


class CommandFailed(NodekitError):
    """The command cannot do what it was asked for."""

    exit_code: ClassVar[int] = FAILED


class Unreachable(CommandFailed):
    """There was no connection: the node has not seen the request."""

    exit_code = NO_ANSWER


class Dropped(Unreachable):
    """There was a connection, and no answer: what the node made of the request is not known."""


class NotANode(CommandFailed):
    """Something answers there, and not as a node does."""

    exit_code = NO_ANSWER


class Refused(CommandFailed):
    """The node says no, in its own words."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(reason)


class Busy(Refused):
    """The node says: not now."""

    exit_code = NO_ANSWER

    def __init__(self, status: int, reason: str, retry_after_seconds: float) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(status, reason)


class TimeIsUp(CommandFailed):
    """The job was not finished in time; it goes on."""

    exit_code = TIME_IS_UP
