"""Paths in settings: one rule for all of them."""

import os
import stat
from errno import ENOENT, ENOTDIR
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


def folder_problem(folder: Path, *, write: bool = False) -> str:
    """Return why this user cannot use the files of a folder, or make some with `write`. Empty: nothing is wrong.

    The text ends with a cure behind a semicolon.
    """
    try:
        is_folder = stat.S_ISDIR(os.stat(folder).st_mode)
    except PermissionError:
        above = reversed(folder.absolute().parents)
        return _closed(next((one for one in above if not os.access(one, os.X_OK)), folder), "enter")
    except OSError as error:
        if error.errno not in (ENOENT, ENOTDIR):
            return f"the folder {folder} cannot be used: {error.strerror}; correct the path"
        return f"there is no folder {folder}; make it, or correct the path"
    if not is_folder:
        return f"{folder} is a file and no folder; correct the path"
    if not os.access(folder, os.X_OK):
        return _closed(folder, "enter")
    if write and os.statvfs(folder).f_flag & os.ST_RDONLY:
        return f"the file system of the folder {folder} is read-only; mount it for writing, or correct the path"
    return "" if not write or os.access(folder, os.W_OK) else _closed(folder, "write in")


def _closed(folder: Path, verb: str) -> str:
    return f"this user may not {verb} the folder {folder}; change its owner or its mode, or correct the path"
