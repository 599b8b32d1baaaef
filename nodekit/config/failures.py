"""Failures of package code: reported in one line, with their traceback on request."""

import logging

logger = logging.getLogger("nodekit.packages")
"""Logger of the tracebacks, at debug level."""

CURE = "nodekit --traceback COMMAND shows where"


def described(error: BaseException, what: str) -> str:
    """Return the line for an error. The error's own text may quote a file, so not every line includes it."""
    keep(error, what)
    return f"{what}: {type(error).__name__}: {error}; {CURE}"


def keep(error: BaseException, what: str) -> None:
    """Log the traceback."""
    logger.debug("%s", what, exc_info=error)
