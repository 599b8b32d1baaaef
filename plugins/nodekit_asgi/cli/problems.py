"""Problems that end a command. Each has an exit code, and a text of one line that contains the cure."""

from typing import ClassVar

from nodekit import NodekitError

FAILED = 1
"""The job failed, or the node refuses the request."""
NO_ANSWER = 4
"""No node answers, or it accepts no jobs at the moment. The same command may work later."""
TIME_IS_UP = 5
"""The time to wait is over. The job continues."""
INTERRUPTED = 130


class CommandFailed(NodekitError):
    """A failure of the command."""

    exit_code: ClassVar[int] = FAILED


class Unreachable(CommandFailed):
    """No connection was made, so the node has not seen the request."""

    exit_code = NO_ANSWER


class Dropped(Unreachable):
    """A connection was made but there was no answer. It is not known what the node did with the request."""


class NotANode(CommandFailed):
    """A server answers at the URL, but not as a node does."""

    exit_code = NO_ANSWER


class Refused(CommandFailed):
    """A refusal by the node, with the node's own text."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(reason)


class Busy(Refused):
    """A refusal by the node for now."""

    exit_code = NO_ANSWER

    def __init__(self, status: int, reason: str, retry_after_seconds: float) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(status, reason)


class TimeIsUp(CommandFailed):
    """The job was not finished in time. It continues."""

    exit_code = TIME_IS_UP
