"""The log of `nodekit serve`: on standard error, and also in a file if the node file names one."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from typing import cast

import click

from nodekit.config.compose import LogSettings
from nodekit.config.failures import logger as failures
from nodekit.foreign_text import printable_lines

FILE_MODE = 0o640
"""Mode of log files: they may hold what containers print, so only the operator's group reads them."""
LONGEST_RECORD = 64 * 1024
"""Maximum number of characters of a record, its traceback included."""
CONTINUED = "\n  | "
"""Begin of each further line of a record, so that no text of others looks like a record of its own."""

_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class LogFormatter(logging.Formatter):
    """A formatter of records that hold text of clients, containers and engines.

    This is the one place through which all that `nodekit serve` logs must pass: no text commands a terminal, forges a
    record, or is longer than `LONGEST_RECORD`.
    """

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record).rstrip("\n")
        if (more := len(text) - LONGEST_RECORD) > 0:
            text = f"{text[:LONGEST_RECORD]}… ({more} more characters)"
        return printable_lines(text).replace("\n", CONTINUED)


def log_to_standard_error(level: str) -> None:
    """Log to standard error: nodekit at this level, libraries only from warnings up.

    At debug level, some libraries log the data that clients send.
    """
    least = "ERROR" if level == "error" else "WARNING"
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter(_FORMAT))
    logging.basicConfig(level=least, handlers=[handler])
    logging.getLogger("nodekit").setLevel(level.upper())


@contextmanager
def tracebacks_shown() -> Iterator[None]:
    """Show tracebacks on standard error if the code of a package fails."""
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter())
    before = failures.level, failures.propagate
    failures.addHandler(handler)
    failures.setLevel(logging.DEBUG)
    failures.propagate = False  # `serve` has a handler of its own
    try:
        yield
    finally:
        failures.removeHandler(handler)
        failures.level, failures.propagate = before


def log_to_file(settings: LogSettings) -> None:
    """Log the same lines to a file, too."""
    handler = LogFile(settings)
    handler.setFormatter(LogFormatter(_FORMAT))
    logging.getLogger().addHandler(handler)


def reopen_log_files() -> None:
    """Open the log files anew for the next lines: somebody may have moved them away."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogFile):
            handler.reopen()


class LogFile(RotatingFileHandler):
    """A log file of bounded size. A full disk or a missing folder stops nothing; it is reported once."""

    def __init__(self, settings: LogSettings) -> None:
        super().__init__(
            settings.path, maxBytes=settings.max_file_bytes, backupCount=settings.backups, encoding="utf-8", delay=True
        )
        self._reported = False

    def doRollover(self) -> None:  # noqa: N802 - its name; without backups, the library's lets the file grow
        if self.backupCount:
            super().doRollover()
        else:
            self._close()
            self.stream = self._opened("w")

    def _open(self) -> TextIOWrapper:
        return self._opened(self.mode)

    def _opened(self, mode: str) -> TextIOWrapper:
        """Open the file. One that is made here may be read by the owner and the group only."""
        file = open(self.baseFilename, mode, encoding=self.encoding, errors=self.errors, opener=_opener)  # noqa: SIM115
        return cast("TextIOWrapper", file)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        with suppress(OSError):  # the lines that it still buffers cannot be written either
            self._close()
        if not self._reported:
            self._reported = True
            text = f"the log file {self.baseFilename} cannot be written: {error.strerror}; the log goes on here"
            click.echo(f"nodekit: {text}", err=True)

    def reopen(self) -> None:
        """Close the file, whose next line opens it again by its name."""
        with suppress(OSError), self.lock or nullcontext():
            self._close()

    def _close(self) -> None:
        """Close the file. It is opened again for the next line."""
        stream, self.stream = self.stream, None
        if stream:
            stream.close()


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags, FILE_MODE)
