"""Limits of a node file. Within them, every file is read and checked in a moment, whoever wrote it."""

import errno
import math
import os
import re
import select
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from nodekit.errors import CompositionError, Problem
from nodekit.model.clock import SystemClock

MAX_FILE_BYTES = 1 << 20
PIPE_SECONDS = 5.0
"""Time in which a pipe, such as that of ``<(envsubst < node.toml)``, has to give the whole file."""
MAX_DEPTH = 32
"""Deepest nesting of tables and lists. A container's settings are at most 6 deep."""
MAX_KEY_PARTS = 32
MAX_INT = 2**256 - 1
"""Amounts of tokens on a chain have up to 256 bits; no other number has as many."""

STRING = re.compile(  # each matches without its end, too; looking for it again and again would take minutes
    r'"""(?:[^\\]|\\[\s\S])*?(?:"{3,5}|\Z)'  # before the others: three quotes are no empty string and a quote
    r"|'''[\s\S]*?(?:'{3,5}|\Z)"
    r'|"(?:[^"\\\n]|\\[^\n])*"?'
    r"|'[^'\n]*'?"
    r"|#[^\n]*"
)
"""A text or a comment of TOML; a text need not have an end."""
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_BETWEEN_KEYS = re.compile(r"[,=\[\]{}\n]")


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8. Raise `CompositionError` if it is too large or cannot be read."""
    try:
        data = read_bytes(path, MAX_FILE_BYTES)
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    if len(data) > MAX_FILE_BYTES:
        text = f"is larger than {MAX_FILE_BYTES} bytes, the most for a node file; is it the right file?"
        raise CompositionError(Problem(str(path), text))
    if _is_wide(data):
        raise CompositionError(Problem(str(path), "is not UTF-8, but UTF-16 or UTF-32; save it as UTF-8"))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = error.start + len(data) - len(error.object)  # the decoder does not see a mark at the begin
        line = data.count(b"\n", 0, at) + 1
        text = f"is not UTF-8: byte 0x{data[at]:02x} in line {line}; save it as UTF-8"
        raise CompositionError(Problem(str(path), text)) from error


def _is_wide(data: bytes) -> bool:
    """Return True for UTF-16 and UTF-32: they begin with a mark, or every other byte is 0."""
    zero = [len(half) > 1 and not half.strip(b"\0") for half in (data[:64:2], data[1:64:2])]
    return data.startswith(_UTF_16) or zero[0] != zero[1]


_CURES = {
    errno.ENOENT: "correct its name; `nodekit config schema` and the README show how to write one",
    errno.EACCES: "give this user the right to read it, and to enter its folders",
    errno.EIO: "look at the disk (df, dmesg)",
}


def unreadable(path: Path, error: Exception) -> CompositionError:
    """Return the problem of a file that `read_bytes` or `check_regular` does not read."""
    if isinstance(error, OSError):
        cure = _CURES.get(error.errno or 0, "name another file")
        return CompositionError(Problem(str(path), f"cannot be read: {error.strerror or error}; {cure}"))
    return CompositionError(Problem(repr(str(path)), f"cannot be read: {error}"))  # its name has a NUL


def check_regular(path: Path) -> None:
    """Raise `OSError` for what is no file: opening it may take for ever. Raise `ValueError` for a name with a NUL."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, _kind(mode))


def read_bytes(path: Path, most: int) -> bytes:
    """Return the bytes of a file or pipe, at most one more than `most`.

    A pipe has to end within `PIPE_SECONDS`. Raise `OSError` for what cannot be read, devices included, and `ValueError`
    for a name with a NUL.
    """
    descriptor = os.open(
        path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    )  # opening a pipe does not wait for its writer
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISFIFO(mode):
            return _piped(descriptor, most)
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, _kind(mode))
        return _all(descriptor, most)
    finally:
        os.close(descriptor)


def _all(descriptor: int, most: int) -> bytes:
    data = b""
    while len(data) <= most and (piece := os.read(descriptor, most + 1 - len(data))):
        data += piece
    return data


def _piped(descriptor: int, most: int) -> bytes:
    clock = SystemClock()
    data, until = b"", clock.monotonic() + PIPE_SECONDS
    watched = select.poll()
    watched.register(descriptor, select.POLLIN)
    while len(data) <= most:
        if not watched.poll(max(0.0, until - clock.monotonic()) * 1000):
            raise OSError(errno.ETIMEDOUT, f"it is a pipe whose writer did not finish within {PIPE_SECONDS:g} s")
        try:
            piece = os.read(descriptor, most + 1 - len(data))
        except BlockingIOError:
            continue
        if not piece:
            break
        data += piece
    return data


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return os.strerror(errno.EISDIR)
    kind = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
    return f"it is {kind}, not a file"


def check_keys(text: str, path: Path) -> None:
    """Raise `CompositionError` if a TOML text has a key of too many parts, which is slow to read."""
    plain = STRING.sub(lambda found: "\n" * found[0].count("\n"), text)
    start = 0
    for end in (*(found.start() for found in _BETWEEN_KEYS.finditer(plain)), len(plain)):
        if plain.count(".", start, end) >= MAX_KEY_PARTS:
            line = plain.count("\n", 0, end) + 1
            text = f"has a key of more than {MAX_KEY_PARTS} parts in line {line}; remove it, no setting is as deep"
            raise CompositionError(Problem(str(path), text))
        start = end


def value_problems(tables: Mapping[str, Any], path: Path) -> list[Problem]:
    """Return the values that no setting can have. Raise `CompositionError` if they are nested too deep."""
    return list(_problems(tables, path))


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
