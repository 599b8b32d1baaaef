"""The log of `nodekit serve`: on standard error, and also in a file if the node file names one."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging.handlers import RotatingFileHandler

import click

from nodekit.config.compose import LogSettings
from nodekit.config.failures import logger as failures

_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def log_to_standard_error(level: str) -> None:
    """Log to standard error: nodekit at this level, libraries only from warnings up.

    At debug level, some libraries log the data that clients send.
    """
    least = "ERROR" if level == "error" else "WARNING"
    logging.basicConfig(level=least, format=_FORMAT)
    logging.getLogger("nodekit").setLevel(level.upper())


@contextmanager
def tracebacks_shown() -> Iterator[None]:
    """Show tracebacks on standard error if the code of a package fails."""
    handler = logging.StreamHandler()
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
    handler.setFormatter(logging.Formatter(_FORMAT))
    logging.getLogger().addHandler(handler)


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
            self.stream = open(self.baseFilename, "w", encoding=self.encoding)  # noqa: SIM115

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

    def _close(self) -> None:
        """Close the file. It is opened again for the next line."""
        stream, self.stream = self.stream, None
        if stream:
            stream.close()
