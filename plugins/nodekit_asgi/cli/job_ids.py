"""Ids of jobs on the command line: arguments, and lines of standard input."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any, BinaryIO, TypeVar

import click

from nodekit_asgi.cli.client import NO_SUCH_JOB
from nodekit_asgi.cli.problems import Refused

F = TypeVar("F", bound=Callable[..., Any])

STDIN = "-"
MOST_LINES = 1_000_000
LONGEST_LINE = 1 << 20
SHOWN = 60
"""Characters that are shown of a line without an id."""

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def is_id(text: str) -> bool:
    """Return True if a job can have this id. Others are not asked for, because a path or a query cannot hold them."""
    return _ID.fullmatch(text) is not None


def job_path(id: str, rest: str = "") -> str:
    """Return the path of a job. Raise `Refused` as a node would if no job can have this id."""
    if not is_id(id):
        raise Refused(404, NO_SUCH_JOB)
    return f"/api/jobs/{id}{rest}"


def ids_argument(command: F) -> F:
    """Add the argument for ids of jobs, any of which may be `-` for those of standard input."""
    return click.argument("ids", metavar="ID...", nargs=-1, required=True, callback=_read_ids)(command)


def _read_ids(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> Sequence[str]:
    """Return the ids, each once, in lower case as the node has them. What is no id stays as it is."""
    given = (id for value in values for id in (_of_stdin() if value == STDIN else (value,)))
    return list(dict.fromkeys(id.lower() if is_id(id) else id for id in given))


def _of_stdin() -> Iterator[str]:
    if sys.stdin is None:
        raise click.UsageError("-: standard input is closed; give it the ids, one a line")
    try:
        yield from ids_of_lines(sys.stdin.buffer)
    except OSError as error:  # such as a folder
        raise click.UsageError(
            f"-: standard input cannot be read: {error.strerror}; give it the ids, one a line"
        ) from error


def ids_of_lines(lines: BinaryIO) -> Iterator[str]:
    """Yield the ids that each line begins with, and a line that begins with none as it is.

    So the tables of `nodekit job list` and the lines of `nodekit job batch` can be read, and an id within the error of
    another job is not taken for one.
    """
    for number in range(1, MOST_LINES + 1):
        if not (line := lines.readline(LONGEST_LINE)):
            return
        if len(line) == LONGEST_LINE:
            raise click.UsageError(f"-: line {number} of standard input is too long; give one id a line")
        text = line.decode(errors="surrogateescape").removeprefix("\ufeff").strip()
        words = text.split()
        ids = list(takewhile(is_id, words))
        yield from ids or ([text[:SHOWN]] if text and not _is_head(words) else [])
    raise click.UsageError(f"-: standard input has more than {MOST_LINES} lines; pass on fewer at a time")


def _is_head(words: Sequence[str]) -> bool:
    """Return True for the head of a table."""
    return words[0] == "id"
