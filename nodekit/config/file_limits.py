"""Limits of a node file. Within them, every file is read and checked in a moment, whoever wrote it."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from nodekit.errors import CompositionError, Problem

MAX_FILE_BYTES = 1 << 20
MAX_DEPTH = 32
"""Deepest nesting of tables and lists. A container's settings are at most 6 deep."""
MAX_KEY_PARTS = 32
MAX_INT = 2**256 - 1
"""Amounts of tokens on a chain have up to 256 bits; no other number has as many."""

_STRING = re.compile(  # each matches without its end, too; looking for it again and again would take minutes
    r'"""(?:[^\\]|\\[\s\S])*?(?:"{3,5}|\Z)'  # before the others: three quotes are no empty string and a quote
    r"|'''[\s\S]*?(?:'{3,5}|\Z)"
    r'|"(?:[^"\\\n]|\\[^\n])*"?'
    r"|'[^'\n]*'?"
    r"|#[^\n]*"
)
_BETWEEN_KEYS = re.compile(r"[,=\[\]{}\n]")


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8. Raise `CompositionError` if it is too large or cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise CompositionError(Problem(str(path), f"cannot be read: {error.strerror}")) from error
    except ValueError as error:  # the name of the file has a NUL
        raise CompositionError(Problem(repr(str(path)), f"cannot be read: {error}")) from error
    if len(data) > MAX_FILE_BYTES:
        text = f"is larger than {MAX_FILE_BYTES} bytes, the most for a node file; is it the right file?"
        raise CompositionError(Problem(str(path), text))
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        text = f"is not UTF-8: byte 0x{data[error.start]:02x} in line {line}; save it as UTF-8"
        raise CompositionError(Problem(str(path), text)) from error


def check_keys(text: str, path: Path) -> None:
    """Raise `CompositionError` if a TOML text has a key of too many parts, which is slow to read."""
    plain = _STRING.sub(lambda found: "\n" * found[0].count("\n"), text)
    start = 0
    for end in (*(found.start() for found in _BETWEEN_KEYS.finditer(plain)), len(plain)):
        if plain.count(".", start, end) >= MAX_KEY_PARTS:
            line = plain.count("\n", 0, end) + 1
            text = f"has a key of more than {MAX_KEY_PARTS} parts in line {line}; remove it, no setting is as deep"
            raise CompositionError(Problem(str(path), text))
        start = end


def check_values(tables: Mapping[str, Any], path: Path) -> None:
    """Raise `CompositionError` for values that no setting can have, wherever they are."""
    if problems := list(_problems(tables, path)):
        raise CompositionError(problems)


def too_deep(path: Path) -> CompositionError:
    return CompositionError(Problem(str(path), f"is nested more than {MAX_DEPTH} deep; no setting is as deep"))


def _problems(tables: Mapping[str, Any], path: Path) -> Iterator[Problem]:
    """Look at each value, without recursion."""
    left: list[tuple[str, Any, int]] = [("", tables, 0)]
    while left:
        where, value, depth = left.pop()
        if depth > MAX_DEPTH:
            raise too_deep(path)
        match value:
            case dict():
                table = cast("dict[str, Any]", value)
                below = [(f"{where}.{key}" if where else key, one, depth + 1) for key, one in table.items()]
                left += reversed(below)
            case list():
                items: list[Any] = value  # pyright: ignore[reportUnknownVariableType]
                left += reversed([(f"{where}[{number}]", one, depth + 1) for number, one in enumerate(items)])
            case bool():
                pass
            case int() if not -MAX_INT - 1 <= value <= MAX_INT:
                yield Problem(where, "the number is too large: it has more than 256 bits")
            case float() if math.isnan(value):
                yield Problem(where, "nan is no number that a setting can have; give a number, or inf for no limit")
            case _:
                pass
