"""The log of `nodekit serve`: on standard error, and in a file where the node file names one."""

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
    """Ours at the level asked for; libraries' only from warnings up: at debug, some of them log what clients send."""
    least = "ERROR" if level == "error" else "WARNING"
    logging.basicConfig(level=least, format=_FORMAT)
    logging.getLogger("nodekit").setLevel(level.upper())


@contextmanager
def tracebacks_shown() -> Iterator[None]:
    """On standard error, those of packages whose code failed."""
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
    """The same lines in a file, too."""
    handler = LogFile(settings)
    handler.setFormatter(logging.Formatter(_FORMAT))
    logging.getLogger().addHandler(handler)


class LogFile(RotatingFileHandler):
    """A log file of bounded size. A disk that is full, or a folder that is not there, stops nobody: it is said once."""

    def __init__(self, settings: LogSettings) -> None:
        super().__init__(
            settings.path, maxBytes=settings.max_file_bytes, backupCount=settings.backups, encoding="utf-8", delay=True
        )
        self._told = False

    def doRollover(self) -> None:  # noqa: N802 - as in the standard library, which lets the file grow without backups
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
        with suppress(OSError):  # what it still holds cannot be written either
            self._close()
        if not self._told:
            self._told = True
            text = f"the log file {self.baseFilename} cannot be written: {error.strerror}; the log goes on here"
            click.echo(f"nodekit: {text}", err=True)

    def _close(self) -> None:
        """It is opened again for the next line."""
        stream, self.stream = self.stream, None
        if stream:
            stream.close()
