"""Output of the commands: tables, and JSON lines. No character of a job commands a terminal."""

import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click
import msgspec

from nodekit.cli.store.ages import exact_time
from nodekit.foreign_text import printable, printable_json
from nodekit.model.job import Attempt, Job, StepRecord

LONGEST_ERROR = 80
LONGEST_NAME = 40
"""Maximum numbers of characters in a table."""
_TIMES = frozenset(
    {"accepted_at", "finished_at", "started_at", "not_before"}
    | {"oldest_unfinished_at", "first_finished_at", "last_finished_at"}
)
LINE_ENDS = bytes.maketrans(b"\r\n", b"  ")
"""In JSON, a line end can only be a space between values."""


class Table:
    """A table that is printed in parts. A column keeps the width of the longest text that it had so far.

    At a terminal, each line is cut to its width.
    """

    def __init__(self, heads: Sequence[str]) -> None:
        self._widths = [0] * len(heads)
        self._heads: Sequence[Sequence[str]] = [heads]

    def echo(self, texts: Iterable[Sequence[str]]) -> None:
        """Print rows, after the heads if these are the first ones."""
        rows = [[printable(text, keep="") for text in row] for row in (*self._heads, *texts)]
        self._heads = []
        for row in rows:
            self._widths = [max(width, len(text)) for width, text in zip(self._widths, row, strict=True)]
        columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        for row in rows:
            cells = (text.ljust(width) for text, width in zip(row, self._widths, strict=True))
            line = "  ".join(cells).rstrip()
            click.echo(line if columns is None else short(line, columns))


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
    return msgspec.json.encode(dated(job))


def dated(struct: msgspec.Struct) -> dict[str, Any]:
    """Return the fields of a Struct as JSON has them, with texts (RFC 3339, in UTC) for times."""
    omits = struct.__struct_config__.omit_defaults
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(struct):
        value = getattr(struct, field.name)
        if not omits or value != field.default:
            is_time = field.name in _TIMES and isinstance(value, float)
            found[field.encode_name] = exact_time(value) if is_time else _nested(value)
    return found


def _nested(value: Any) -> Any:
    if isinstance(value, StepRecord | Attempt):
        return dated(value)
    return [_nested(one) for one in value] if isinstance(value, tuple) else value  # pyright: ignore[reportUnknownVariableType]
