"""Node files: TOML, or any other format that an installed package reads.

A package registers a format by an entry point of the group ``nodekit.formats``. Its name is the suffix of such files,
without the dot; its object is a `Format`.
"""

import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from nodekit.config.distributions import read_once
from nodekit.config.failures import CURE, keep
from nodekit.config.file_limits import check_keys, check_values, read_text, too_deep
from nodekit.config.providers import load_only, provided
from nodekit.errors import CompositionError, NodekitError, Problem
from nodekit.hooks.container_rules import nearest

BUILT_IN = "toml"

_NO_ORIGINS: Mapping[str, str] = MappingProxyType({})


class NodeTables(msgspec.Struct, frozen=True):
    """The contents of a file as tables of a node file.

    Values may be objects that no text can express, such as a `Secret`.

    - `notices`: Notices for an operator about the way the file was read, a sentence each. Each is reported once.
    - `summary`: Lines that `nodekit serve` logs in place of the notices, the most important first. None: the notices.
      Other commands print the notices in any case.
    - `origins`: Map of key paths of the tables to the key paths in the file that they come from. Problems name the
      latter.
    """

    tables: dict[str, Any]
    notices: tuple[str, ...] = ()
    origins: Mapping[str, str] = _NO_ORIGINS
    summary: tuple[str, ...] | None = None

    def in_the_file(self, error: CompositionError) -> CompositionError:
        """Return the same problems with their places in the file."""
        return CompositionError(Problem(self._origin(problem.where), problem.text) for problem in error.problems)

    def _origin(self, where: str) -> str:
        """Translate by the longest known path that `where` is, or lies below."""
        ends = [end for end in range(len(where), 0, -1) if end == len(where) or where[end] in ".["]
        return next((self.origins[where[:end]] + where[end:] for end in ends if where[:end] in self.origins), where)


class Format:
    """A format that a package reads.

    `read` returns the tables of the file at a path. It starts nothing, and raises `CompositionError` if the file is
    invalid, with key paths as they stand in the file. `variable` is the environment variable that names the file if
    `nodekit serve` gets none.
    """

    def __init__(self, read: Callable[[Path], NodeTables], *, variable: str | None = None) -> None:
        self.read = read
        self.variable = variable


def read_tables(path: Path | str) -> NodeTables:
    """Return the tables of a node file in any format, unchecked. Raise `CompositionError` if it cannot be read."""
    read = _read(path)
    try:
        check_values(read.tables, Path(path))
    except CompositionError as error:
        raise read.in_the_file(error) from error
    return read


def _read(path: Path | str) -> NodeTables:
    suffix = Path(path).suffix.lower().removeprefix(".")
    if suffix in ("", BUILT_IN):
        return NodeTables(_toml(Path(path)))
    try:
        return load_format(suffix).read(Path(path))
    except CompositionError:
        raise
    except NodekitError as error:
        raise CompositionError(Problem(str(path), str(error))) from error
    except OSError as error:
        raise CompositionError(Problem(str(path), f"cannot be read: {error.strerror}")) from error
    except Exception as error:  # a bug of the package; its text may hold contents of the file
        text = f"the package that reads the format {suffix!r} failed"
        keep(error, text)
        text = f"{text}: {type(error).__name__}; report this to its authors; {CURE}"
        raise CompositionError(Problem(str(path), text)) from error


@read_once()
def file_of_the_environment() -> str | None:
    """Return the path in the variable of some format, if one is set."""
    for name in sorted(provided("format")):
        try:
            variable = load_format(name).variable
        except NodekitError:  # `nodekit doctor` reports it
            continue
        if variable and (path := os.environ.get(variable)):
            return path
    return None


def load_format(suffix: str) -> Format:
    """Import the one format of that suffix. Raise `NodekitError` if there is none, several, or a broken one."""
    found = provided("format")
    if suffix not in found:
        known = sorted({*found, BUILT_IN})
        text = f"no installed package reads the format {suffix!r}; known: {', '.join(known)}{nearest(suffix, known)}"
        raise NodekitError(text)
    return load_only(found[suffix], Format, f"format {suffix!r}")


def _toml(path: Path) -> dict[str, Any]:
    text = read_text(path)
    check_keys(text, path)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CompositionError(Problem(str(path), f"is not TOML: {error}")) from error
    except ValueError as error:  # a number of thousands of digits, or a date that no calendar has
        text = "has a number of too many digits, or a date or time that does not exist"
        raise CompositionError(Problem(str(path), text)) from error
    except RecursionError as error:
        raise too_deep(path) from error
