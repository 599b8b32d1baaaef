"""The log of one run of `nodekit serve`: its places, the levels of its loggers, and all that writes around them."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import click

from nodekit.cli.serve.log.formats import LogFormatter, formatter, safe_text
from nodekit.cli.serve.log.line_writer import BATCH_BYTES, Descriptor, LineWriter, Place
from nodekit.cli.serve.log.log_file import LogFile
from nodekit.cli.serve.log.taken_streams import TakenStream, as_text
from nodekit.config.failures import logger as failures
from nodekit.config.log_settings import ACCESS, AUDIT, LogSettings

logger = logging.getLogger("nodekit.log")
stray = logging.getLogger("nodekit.stderr")
"""Logger of the lines that something has written to standard error."""

LAST_SECONDS = 1.0
"""Time that the last lines have to be written, once the node has stopped."""
_OFF = logging.CRITICAL + 1


class LogHandler(logging.Handler):
    """A handler that gives each record to line writers, and waits for none of them."""

    def __init__(self, writers: Iterable[LineWriter] = ()) -> None:
        super().__init__()
        self.writers = [*writers]
        self.setFormatter(formatter("text"))

    def emit(self, record: logging.LogRecord) -> None:
        line = self.line(record)
        for writer in self.writers:
            writer.put(line)

    def line(self, record: logging.LogRecord) -> bytes:
        """Return the line of a record, or of the reason why it cannot be made."""
        try:
            text = self.format(record)
        except Exception as error:
            text = self._instead_of(record, error)
        return text.encode(errors="backslashreplace") + b"\n"

    def _instead_of(self, record: logging.LogRecord, error: Exception) -> str:
        told = f"a record of {record.name} cannot be made"
        try:
            text = f"{told} from {record.msg!r:.200}: {type(error).__name__}: {error}"
            return self.format(_record("nodekit.log", logging.ERROR, text))
        except Exception:  # of the text of these objects, or of the formatter itself
            return safe_text(f"{told}: {type(error).__name__}")

    def notice(self, text: str) -> bytes:
        """Return a line about the log itself."""
        return self.line(_record("nodekit.log", logging.WARNING, text))


class NodeLog:
    """The log, from before the node is composed until the process ends.

    `level` is the level of the command line; None: that of the node file, or info.
    """

    def __init__(self, level: str | None) -> None:
        self._level = level
        self._handler = LogHandler()
        self._audit = LogHandler()
        self._begun = False
        self._outputs: list[LineWriter] = []
        self._files: list[tuple[Path, LineWriter]] = []
        self._levels: dict[str, int] = {}
        self._taken: list[TakenStream] = []

    def __enter__(self) -> Self:
        self._before = sys.stdout, sys.stderr, sys.excepthook, threading.excepthook, sys.unraisablehook
        self._error = self._writer(_place(sys.stderr), "standard error")
        self._handler.writers.append(self._error)
        self._shows_bars = sys.stderr.isatty()
        out = self._writer(_place(sys.stdout), "standard output")
        sys.stdout = self._take(sys.stdout, out.put, lines=False)
        sys.stderr = self._take(sys.stderr, self._stray, lines=not self._shows_bars)
        sys.excepthook = _log_uncaught
        threading.excepthook = lambda args: _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)
        sys.unraisablehook = _log_unraisable
        logging.captureWarnings(True)
        logging.getLogger().addHandler(self._handler)
        self._set_levels(LogSettings())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what waits, for a limited time. Late lines are still taken, as far as nobody has to wait for them."""
        self._begun = False
        for taken in self._taken:
            taken.finish()
        logging.getLogger().removeHandler(self._handler)
        logging.getLogger(AUDIT).removeHandler(self._audit)
        logging.getLogger(AUDIT).propagate = True
        logging.captureWarnings(False)
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)
        until = time.monotonic() + LAST_SECONDS
        for writer in self._outputs:
            writer.close()
        for writer in self._outputs:
            writer.wait(until)
        out, error_stream, sys.excepthook, threading.excepthook, sys.unraisablehook = self._before
        if _descriptor(error_stream) is None:  # streams of a program that called the command
            sys.stdout, sys.stderr = out, error_stream

    def begin(self, settings: LogSettings) -> None:
        """Log by the settings of the node file from now on."""
        self._handler.setFormatter(formatter(settings.format))
        self._set_levels(settings)
        if settings.path is not None:
            self._handler.writers.append(self._file(settings.path, settings))
        if isinstance(settings.audit, str):
            self._audit.setFormatter(formatter(settings.format))
            self._audit.writers.append(self._file(Path(settings.audit), settings, instead=self._put_everywhere))
            logging.getLogger(AUDIT).addHandler(self._audit)
            logging.getLogger(AUDIT).propagate = False
        self._begun = True

    def reopen(self) -> Sequence[Path]:
        """Open the log files anew for the next lines: somebody may have moved them away. Return their names."""
        for _, writer in self._files:
            writer.reopen()
        return [path for path, _ in self._files]

    # -- places -----------------------------------------------------------------------------------

    def _file(self, path: Path, settings: LogSettings, *, instead: Callable[[bytes], None] | None = None) -> LineWriter:
        file = LogFile(path, settings.max_file_bytes, settings.backups)
        writer = self._writer(file, f"the log file {path}", instead=instead)
        self._files.append((path, writer))
        writer.reopen()  # one that cannot be written is reported before its first line
        return writer

    def _put_everywhere(self, lines: bytes) -> None:
        """Have the log take lines that have no other place."""
        for line in lines.splitlines(keepends=True):
            for writer in self._handler.writers:
                writer.put(line)

    def _writer(self, place: Place, named: str, *, instead: Callable[[bytes], None] | None = None) -> LineWriter:
        """Return a writer whose trouble is reported in the other places of the log.

        `instead` gets the lines that the place does not take.
        """

        def report(text: str) -> None:
            for other in self._handler.writers:
                if other is not writer:
                    other.put(self._handler.notice(text))

        writer = LineWriter(place, named, notice=self._handler.notice, report=report, instead=instead)
        self._outputs.append(writer)
        return writer

    # -- all that writes around the log -----------------------------------------------------------

    def _take(self, stream: TextIO, put: Any, *, lines: bool) -> TextIO:
        self._taken.append(taken := TakenStream(put, stream, lines=lines))
        return as_text(taken)

    def _stray(self, data: bytes) -> None:
        """Take what something has written to standard error: a line, or at a terminal a piece as it came."""
        if self._shows_bars:
            self._error.put(data)
        elif self._begun:
            stray.warning("%s", data.decode(errors="backslashreplace").rstrip("\r"))
        else:
            self._error.put(safe_text(data.decode(errors="backslashreplace")).encode() + b"\n")

    # -- levels -----------------------------------------------------------------------------------

    def _set_levels(self, settings: LogSettings) -> None:
        """Set the levels: of libraries warnings, since some log the data that clients send at debug level."""
        level = self._level or settings.level
        levels = {"": "error" if level == "error" else "warning", "nodekit": level}
        levels |= dict(settings.levels) if self._level is None else {}
        numbers = {name: logging.getLevelNamesMapping()[text.upper()] for name, text in levels.items()}
        numbers[ACCESS] = logging.INFO if settings.access else _OFF
        numbers[AUDIT] = logging.INFO if settings.audit else _OFF
        for name, number in numbers.items():
            self._levels.setdefault(name, logging.getLogger(name).level)
            logging.getLogger(name).setLevel(number)


class StreamPlace:
    """A stream of a program that calls the command in its own process, as a place for lines."""

    room = BATCH_BYTES
    blocked = "was not read"

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, data: bytes) -> int:
        with suppress(ValueError):  # it is closed
            self._stream.write(data.decode(errors="backslashreplace"))
            self._stream.flush()
        return len(data)

    def reopen(self) -> None:
        """Do nothing: it has no name."""


def _place(stream: TextIO) -> Place:
    descriptor = _descriptor(stream)
    return StreamPlace(stream) if descriptor is None else Descriptor(descriptor)


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


def _record(name: str, level: int, text: str) -> logging.LogRecord:
    return logging.LogRecord(name, level, "", 0, text, None, None)


def _log_uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if not issubclass(kind, SystemExit | KeyboardInterrupt):
        logging.getLogger("nodekit").error("nobody handled this error", exc_info=(kind, error or kind(), trace))


def _log_unraisable(unraisable: Any) -> None:
    text = unraisable.err_msg or "an error that cannot be raised"
    info = unraisable.exc_type, unraisable.exc_value, unraisable.exc_traceback
    logging.getLogger("nodekit").error("%s: %r", text, unraisable.object, exc_info=info)


@contextmanager
def tracebacks_shown() -> Iterator[None]:
    """Show tracebacks on standard error if the code of a package fails."""
    handler = _OnStandardError()
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


class _OnStandardError(logging.Handler):
    """A handler that writes to standard error as it is at the time: `serve` takes it."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(self.format(record), err=True)
