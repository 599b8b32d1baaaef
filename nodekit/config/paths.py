"""Paths in settings: one rule for all of them."""

import os
from pathlib import Path


def resolved_path(text: str, folder: Path) -> Path:
    """Return the path that a setting names.

    ``~`` and ``~user`` at its beginning are home folders; ``./~`` is a file of that name. A relative path begins at
    `folder`. Raise `ValueError` if there is no such home folder.
    """
    return folder / with_home(text)


def with_home(text: str) -> str:
    """Return a path with a home folder in place of ``~`` or ``~user`` at its beginning. Raise like `resolved_path`."""
    if not text.startswith("~"):
        return text
    user = text.partition("/")[0]
    if user == "~" and os.environ.get("HOME") == "":
        raise ValueError("there is no home folder for '~': the variable HOME is empty")
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise ValueError(f"there is no home folder for {user!r}; write ./{text} for a file of that name")
    return expanded
