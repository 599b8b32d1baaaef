"""Names of nodes."""

import os
import re
from hashlib import sha256
from pathlib import Path

MAX_NAME = 64
_DIGITS = 8

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


def name_problem(name: str) -> str | None:
    """Return the reason why this is not a valid name of a node, or None if it is one."""
    if not _NAME.fullmatch(name):
        return "expected lower-case letters, digits and _.-, beginning with a letter or digit"
    if len(name) > MAX_NAME:
        return f"expected at most {MAX_NAME} characters, got {len(name)}"
    return None


def default_name(file: Path) -> str:
    """Return the name of a node whose node file sets none.

    The same file always gives the same name, and no other file gives it.
    """
    file = file.resolve()
    stem = file.parent.name if file.stem == "node" else file.stem
    base = re.sub(r"[^a-z0-9_.-]+", "-", stem.lower())[: MAX_NAME - _DIGITS - 1].strip("_.-")
    return f"{base or 'node'}-{sha256(os.fsencode(file)).hexdigest()[:_DIGITS]}"
