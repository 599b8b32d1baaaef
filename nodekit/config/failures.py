"""Failures of code that a package brings: told in a line, and with their traceback to whoever asks for it."""

import logging

logger = logging.getLogger("nodekit.packages")
"""Has the tracebacks, at debug."""

CURE = "nodekit --traceback COMMAND shows where"


def told(error: BaseException, what: str) -> str:
    """The line; what an error says itself may hold what a file says, so that not every line has it."""
    keep(error, what)
    return f"{what}: {type(error).__name__}: {error}; {CURE}"


def keep(error: BaseException, what: str) -> None:
    """Log the traceback."""
    logger.debug("%s", what, exc_info=error)
