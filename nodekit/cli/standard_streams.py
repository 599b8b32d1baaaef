"""Standard input, output and error of every command, which may be closed, full, or read by nobody.

Text that standard output does not take ends the command with an exit code other than 0. Standard error never ends
anything: nobody could be told.
"""

import errno
import io
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TextIO

import click

NOT_WRITTEN = 1
"""Exit code of a command whose output was not written."""
NOT_READ = 128 + signal.SIGPIPE
"""Exit code of a command whose reader has left, such as ``head``; shells show it for programs that SIGPIPE ends."""


class OutputNotWritten(SystemExit):
    """Standard output has refused text. It ends the command like an exit, with an exit code for the reason."""

    def __init__(self, error: OSError) -> None:
        self.reason = error.strerror or str(error)
        super().__init__(NOT_READ if error.errno == errno.EPIPE else NOT_WRITTEN)


@contextmanager
def standard_streams() -> Iterator[None]:
    """Give a command streams of its own in place of the interpreter's. Streams of a program that calls it stay.

    Descriptors 0 to 2 that are closed become ``/dev/null``, before a socket or a database can get their numbers.
    """
    if sys.stdout is not sys.__stdout__ or sys.stderr is not sys.__stderr__:
        yield
        return
    open_closed_descriptors()
    out = _Raw(1, is_open=sys.stdout is not None)
    error = _Raw(2, is_open=sys.stderr is not None)
    sys.stdout, sys.stderr = _text(out, sys.stdout), _text(error, sys.stderr)
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except SystemExit as ending:
        _end(out, error, ending.code)
    _end(out, error, 0)


def open_closed_descriptors() -> None:
    """Open ``/dev/null`` for each of the descriptors 0 to 2 that is closed."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the system gives the lowest number that is free: this one
            os.set_inheritable(descriptor, True)


def _end(out: "_Raw", error: "_Raw", code: Any) -> NoReturn:
    """Exit. Text that was lost, also by code that hides errors, is never an exit with 0."""
    if out.refused is not None:
        if out.refused.errno != errno.EPIPE:
            ending = OutputNotWritten(out.refused)
            click.echo(f"nodekit: standard output cannot be written: {ending.reason}", err=True)
        code = code or OutputNotWritten(out.refused).code
    if error.refused is not None:
        code = code or NOT_WRITTEN
    raise SystemExit(code)


class _Raw(io.FileIO):
    """A descriptor of a standard stream. The first failure is kept, and what follows it is dropped."""

    def __init__(self, descriptor: int, *, is_open: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._is_open = is_open
        self.refused: OSError | None = None

    def write(self, data: Any, /) -> int:
        if self.refused is None:
            try:
                return self._written(data)
            except OSError as error:
                self.refused = error
                if self.fileno() == 1:
                    raise OutputNotWritten(error) from error
        return len(data)

    def _written(self, data: Any) -> int:
        if not self._is_open:
            if self.fileno() == 1:
                raise OSError(errno.EBADF, "it is closed")
            return len(data)
        while (count := super().write(data)) is None:  # another process has made it non-blocking
            select.select([], [self], [])
        return count


def _text(raw: _Raw, before: TextIO | None) -> TextIO:
    """Return a stream of text as the interpreter made it, except that it shows what its encoding cannot express."""
    encoding, errors = (before.encoding, before.errors) if before is not None else ("utf-8", None)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding,
        "backslashreplace" if errors in (None, "strict") else errors,
        line_buffering=raw.fileno() == 2 or raw.isatty(),
    )
