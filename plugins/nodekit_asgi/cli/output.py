"""Output of commands: results on standard output as UTF-8, notices on standard error.

Nodes, containers and other clients wrote much of it, and no character of it may command a terminal. Texts are escaped.
JSON and streams are escaped at a terminal, and go into files and pipes byte for byte.
"""

import errno
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TextIO

import click
import msgspec
from msgspec import UNSET, Raw

from nodekit import printable, printable_json, printable_lines, printable_pieces
from nodekit_asgi.cli.replies import JobResult, StepResult

REFUSED = (OSError, SystemExit)
"""Raised if standard output takes no more: an error, or the exit that the command line makes of it."""
MOST_LETTERS = 4
"""Characters of a text for each column that it may take: there are marks that take none."""


def one_line(text: str) -> str:
    """Return the text in one line, fit for a terminal."""
    return printable(text.replace("\n", " "), keep="")


def say(text: str) -> None:
    _write(printable_lines(text).encode())


def say_lines(lines: Iterable[str]) -> None:
    """Print lines with one write."""
    _write("\n".join(map(printable_lines, lines)).encode())


@contextmanager
def ids_survive(ids: Sequence[str]) -> Iterator[None]:
    """Print the ids of accepted jobs on standard error if standard output does not take what is printed of them."""
    try:
        yield
    except REFUSED:
        for id in ids:
            notice(f"job {id} was accepted; what is printed of it does not reach standard output")
        raise


def notice(text: str) -> None:
    click.echo(f"nodekit: {one_line(text)}", err=True)


def say_json(value: bytes | Raw) -> None:
    """Print JSON as the node wrote it; at a terminal, an equal document without control characters."""
    _write(_shown_json(bytes(value)))


def _shown_json(value: bytes) -> bytes:
    return printable_json(value).encode() if _at_terminal() else value


def _write(result: bytes, end: bytes = b"\n") -> None:
    """Write to standard output at once. Raise one of `REFUSED` if it does not take it."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, "standard output is closed")
    click.echo(result + end, nl=False)


def _at_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def say_pieces(pieces: Iterable[bytes]) -> None:
    """Print bytes as they come; at a terminal as text, with escapes for what is not printable text in UTF-8."""
    for piece in (text.encode() for text in printable_pieces(pieces)) if _at_terminal() else pieces:
        _write(piece, end=b"")


class JsonList:
    """A JSON array on standard output, which is printed item by item. It is complete also if a problem ends it.

    Nothing is printed if a problem comes before the first item.
    """

    def __init__(self) -> None:
        self._begun = False

    def __enter__(self) -> Self:
        return self

    def add(self, item: bytes | Raw) -> None:
        _write(_shown_json((b"," if self._begun else b"[") + bytes(item)), end=b"")
        self._begun = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or (self._begun and not isinstance(error, REFUSED)):
            self.end()

    def end(self) -> None:
        _write(b"]" if self._begun else b"[]")


def say_output(output: Raw) -> None:
    """Print an output as the container wrote it. At a terminal it is indented, with every digit kept."""
    say_json(msgspec.json.format(bytes(output), indent=2) if _at_terminal() else output)


def say_result(result: StepResult) -> None:
    if result.output is not UNSET:
        say_output(result.output)
    else:
        say(f"error: {one_line(result.error or 'no text')}")


def say_job(job: JobResult, *, intermediate: bool) -> None:
    """Print a line with id and status of a job, and then its output or error."""
    say(one_line("  ".join([job.id, job.status, *([job.result.container] if job.result else [])])))
    for step in job.intermediate_results if intermediate else ():
        say(f"step {one_line(step.container)}:")
        say_result(step)
    if job.result:
        if intermediate:
            say("result:")
        say_result(job.result)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Format rows as lines. Each column is as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    padded = ((cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows))
    return ["  ".join(cells).rstrip() for cells in padded]


def columns_of(stream: TextIO | None) -> int | None:
    """Return the width of a terminal, 80 if it does not know it; None if the stream is not one."""
    if stream is None or not stream.isatty():
        return None
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80


def fit(text: str, columns: int) -> str:
    """Return the text, or as much of its beginning as fits into the columns of a terminal, with an ellipsis."""
    total = end = 0
    for at, letter in enumerate(text):
        total += _width(letter)
        if total > columns or at > MOST_LETTERS * columns:
            return f"{text[:end]}…" if columns > 0 else ""
        if total < columns:
            end = at + 1
    return text


def _width(letter: str) -> int:
    if letter.isascii():
        return 1
    if unicodedata.combining(letter) or unicodedata.category(letter) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1
