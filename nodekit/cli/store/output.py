"""Output of the commands: tables, and JSON lines. No character of a job commands a terminal."""

import sys
from collections.abc import Iterable, Sequence

import click
import msgspec

from nodekit.foreign_text import printable, printable_json
from nodekit.model.job import Job

LONGEST_ERROR = 80
LONGEST_NAME = 40
"""Maximum numbers of characters in a table."""
LINE_ENDS = bytes.maketrans(b"\r\n", b"  ")
"""In JSON, a line end can only be a space between values."""


class Table:
    """A table that is printed in parts. A column keeps the width of the longest text that it had so far."""

    def __init__(self, heads: Sequence[str]) -> None:
        self._widths = [0] * len(heads)
        self._heads: Sequence[Sequence[str]] = [heads]

    def echo(self, texts: Iterable[Sequence[str]]) -> None:
        """Print rows, after the heads if these are the first ones."""
        rows = [[printable(text, keep="") for text in row] for row in (*self._heads, *texts)]
        self._heads = []
        for row in rows:
            self._widths = [max(width, len(text)) for width, text in zip(self._widths, row, strict=True)]
        for row in rows:
            cells = (text.ljust(width) for text, width in zip(row, self._widths, strict=True))
            click.echo("  ".join(cells).rstrip())


def short(text: str, longest: int = LONGEST_NAME) -> str:
    """Return a text that is short enough for a table."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def echo_json(value: object) -> None:
    """Print a value as one line of JSON."""
    echo_json_line(msgspec.json.encode(value))


def echo_json_line(document: bytes) -> None:
    """Print a JSON document as one line."""
    document = document.translate(LINE_ENDS)
    click.echo(printable_json(document) if sys.stdout.isatty() else document)


def job_document(job: Job) -> bytes:
    """Return the whole job as JSON. The digits of numbers in its payloads are as they came."""
    return msgspec.json.encode(job)
