"""A program for tests: data on standard input, the result on standard output.

A number is answered with itself plus ADD; `{"do": name, …}` is one of the functions below or of `service.py`; all else
is echoed.
"""

import json
import os
import sys
from typing import Any

import service


def fail(code: int, lines: list[str]) -> None:
    service.say(lines, to="stderr")
    sys.exit(code)


def raw(text: str, lines: list[str] | None = None) -> None:
    """Print this text instead of JSON."""
    service.say(lines or [], to="stderr")
    sys.stdout.write(text)
    sys.stdout.flush()
    os._exit(0)


def flood(mebibytes: int, to: str = "stdout", then: Any = None) -> Any:
    """Print this many bytes, which are no JSON, on standard output."""
    piece = b"x" * 1023 + b"\n"
    for _ in range(mebibytes * 1024):
        getattr(sys, to).buffer.write(piece)
    return then


def size(text: str) -> int:
    """Return the length of the text that arrived."""
    return len(text)


def large(characters: int) -> str:
    return "y" * characters


service.ACTIONS |= {"fail": fail, "raw": raw, "flood": flood, "size": size, "large": large}

if __name__ == "__main__":
    if "NEVER_READS" in os.environ:
        raw('"read nothing"')
    json.dump(service.act(json.load(sys.stdin)), sys.stdout, ensure_ascii=False)
