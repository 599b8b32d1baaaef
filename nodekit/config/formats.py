"""Node files: TOML, or any other format that an installed package reads.

A package puts a format forward by an entry point of the group ``nodekit.formats``: its name is the suffix of such
files, without the dot, its object a `Format`.
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
from nodekit.config.providers import load_only, offered
from nodekit.errors import CompositionError, NodekitError, Problem
from nodekit.hooks.container_rules import nearest

BUILT_IN = "toml"

_NO_ORIGINS: Mapping[str, str] = MappingProxyType({})


class NodeTables(msgspec.Struct, frozen=True):
    """What a file says, in the tables of a node file. Values may be what no text can say, such as a `Secret`."""

    tables: dict[str, Any]
    notices: tuple[str, ...] = ()
    """What an operator should know of how the file was read, a sentence each; each is told once."""
    origins: Mapping[str, str] = _NO_ORIGINS
    """Key paths of the tables → key paths in the file that they come from, with which problems are told."""

    def in_the_file(self, error: CompositionError) -> CompositionError:
        """The same problems, each where it stands in the file."""
        return CompositionError(Problem(self._origin(problem.where), problem.text) for problem in error.problems)

    def _origin(self, where: str) -> str:
        """By the longest path that `where` is, or lies below."""
        ends = [end for end in range(len(where), 0, -1) if end == len(where) or where[end] in ".["]
        return next((self.origins[where[:end]] + where[end:] for end in ends if where[:end] in self.origins), where)


class Format:
    """A format that a package reads.

    `read` gives the tables of the file at a path; it starts nothing, and raises `CompositionError` where the file is
    wrong, with key paths as they stand in the file. `variable` is the environment variable that names the file where
    `nodekit serve` is given none.
    """

    def __init__(self, read: Callable[[Path], NodeTables], *, variable: str | None = None) -> None:
        self.read = read
        self.variable = variable


def read_tables(path: Path | str) -> NodeTables:
    """What a node file says, unchecked, whatever its format. Raises `CompositionError` where it cannot be read."""
    suffix = Path(path).suffix.lower().removeprefix(".")
    if suffix in ("", BUILT_IN):
        return NodeTables(_toml(path))
    try:
        return load_format(suffix).read(Path(path))
    except CompositionError:
        raise
    except NodekitError as error:
        raise CompositionError(Problem(str(path), str(error))) from error
    except OSError as error:
        raise CompositionError(Problem(str(path), f"cannot be read: {error.strerror}")) from error
    except Exception as error:  # a bug of the package; what it says of it may hold what the file says
        text = f"the package that reads the format {suffix!r} failed"
        keep(error, text)
        text = f"{text}: {type(error).__name__}; tell its authors; {CURE}"
        raise CompositionError(Problem(str(path), text)) from error


@read_once()
def file_of_the_environment() -> str | None:
    """The path in the variable of some format, if one is set."""
    for name in sorted(offered("format")):
        try:
            variable = load_format(name).variable
        except NodekitError:  # `nodekit doctor` has it
            continue
        if variable and (path := os.environ.get(variable)):
            return path
    return None


def load_format(suffix: str) -> Format:
    """Import the one format of that suffix. Raises `NodekitError` where there is none, several, or a broken one."""
    found = offered("format")
    if suffix not in found:
        known = sorted({*found, BUILT_IN})
        text = f"no installed package reads the format {suffix!r}; known: {', '.join(known)}{nearest(suffix, known)}"
        raise NodekitError(text)
    return load_only(found[suffix], Format, f"format {suffix!r}")


def _toml(path: Path | str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CompositionError(Problem(str(path), f"cannot be read: {reason}")) from error
    except tomllib.TOMLDecodeError as error:
        raise CompositionError(Problem(str(path), f"is not TOML: {error}")) from error
