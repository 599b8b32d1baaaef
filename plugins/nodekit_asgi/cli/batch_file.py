"""Job requests of a file: a JSON array of them, or one a line (JSON Lines)."""

import codecs
import re
from collections.abc import Iterator
from typing import BinaryIO

import click
import msgspec
from msgspec import Raw

from nodekit_asgi.cli.request import fault_of, name_of

MAX_FILE_BYTES = 1 << 30
"""Maximum size of a file. It is read as a whole, so that nothing is submitted if one of its requests is malformed."""

EXAMPLE = '{"containers": ["upper"], "data": {"text": "hello"}}'

_BYTE = re.compile(r" \(byte (\d+)\)")


def read_requests(file: BinaryIO) -> list[bytes]:
    """Return the requests, each as it is written. Raise `click.UsageError` that names the line of a malformed one."""
    name = name_of(file)
    try:
        data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise click.UsageError(
            f"{name}: cannot be read: {error.strerror}; name a file of job requests, or - for standard input"
        ) from error
    if len(data) > MAX_FILE_BYTES:
        raise click.UsageError(f"{name}: larger than {MAX_FILE_BYTES} bytes; split it")
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{name}, line {_line_of(data, error.start)}: not UTF-8") from error
    requests = _of_array if data.lstrip()[:1] == b"[" else _of_lines
    return list(requests(data, name))


def _of_array(data: bytes, name: str) -> Iterator[bytes]:
    try:
        items = msgspec.json.decode(data, type=list[Raw])
    except (msgspec.DecodeError, RecursionError) as error:
        found = _BYTE.search(str(error))
        line = _line_of(data, int(found[1]) if found else len(data.rstrip()))
        raise click.UsageError(f"{name}, line {line}: {_BYTE.sub('', fault_of(data, error))}") from error
    for number, item in enumerate(items, 1):
        yield _request(bytes(item), f"{name}, item {number}")


def _of_lines(data: bytes, name: str) -> Iterator[bytes]:
    for number, line in enumerate(data.split(b"\n"), 1):
        if line := line.strip():
            yield _request(line, f"{name}, line {number}")


def _request(text: bytes, where: str) -> bytes:
    """Return the text of a request. The node checks what is in it, and answers for each by itself."""
    try:
        msgspec.json.decode(text, type=dict[str, Raw])
    except msgspec.ValidationError as error:
        raise click.UsageError(f"{where}: expected a job request, an object such as {EXAMPLE}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise click.UsageError(f"{where}: {fault_of(text, error)}; expected a job request such as {EXAMPLE}") from error
    return text


def _line_of(data: bytes, at: int) -> int:
    return data.count(b"\n", 0, at) + 1
