"""Node files: TOML, or any other format that an installed package reads.

A package registers a format by an entry point of the group ``nodekit.formats``. Its name is the suffix of such files,
without the dot; its object is a `Format`.
"""

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from nodekit.config.distributions import read_once
from nodekit.config.failures import CURE, keep
from nodekit.config.file_limits import check_keys, check_regular, read_text, too_deep, unreadable, value_problems
from nodekit.config.providers import load_only, provided
from nodekit.config.shapes import is_list, is_table
from nodekit.config.toml_faults import explained
from nodekit.config.variables import Values, escaped, names_in
from nodekit.errors import CompositionError, NodekitError, Problem
from nodekit.hooks.container_rules import nearest

BUILT_IN = "toml"
LONGEST_PLACE = 1000
"""Length of a key path up to which problems name the variables of its value."""

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

    def place_of_container(self, id: str) -> str:
        """Return the key path of a container in the file; empty if no container of its runners has the id."""
        for number, runner in enumerate(_tables(self.tables, "runners")):
            for index, container in enumerate(_tables(runner, "containers")):
                if container.get("id") == id:
                    return self._origin(f"runners[{number}].containers[{index}]")
        return ""

    def _origin(self, where: str) -> str:
        """Translate by the longest known path that `where` is, or lies below."""
        ends = [end for end in range(len(where), 0, -1) if end == len(where) or where[end] in ".["]
        return next((self.origins[where[:end]] + where[end:] for end in ends if where[:end] in self.origins), where)


def _tables(table: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """Return a list of tables; each value that is none is an empty one."""
    entries: list[Any] = msgspec.convert(found, list[Any]) if isinstance(found := table.get(key), list) else []
    return [entry if isinstance(entry, dict) else {} for entry in entries]


class Format:
    """A format that a package reads.

    `read` returns the tables of the file at a path. It starts nothing, and raises `CompositionError` if the file is
    invalid, with key paths as they stand in the file. `variable` is the environment variable that names the file if
    `nodekit serve` gets none.
    """

    def __init__(self, read: Callable[[Path], NodeTables], *, variable: str | None = None) -> None:
        self.read = read
        self.variable = variable


class FileTables(NodeTables, frozen=True):
    """A file that was read, with the values of its references to environment variables.

    - `written`: The tables as the file has them.
    - `problems`: Problems of single values. In `tables`, such a value is None.
    - `hide`: A function that puts references in place of the values of variables.
    """

    written: Mapping[str, Any] = _NO_ORIGINS
    problems: tuple[Problem, ...] = ()
    hide: Callable[[str], str] = str

    def in_the_file(self, error: CompositionError) -> CompositionError:
        """Return the same problems with their places in the file, and without values of variables.

        Several settings may come from one place. Only the first problem of such a place is returned.
        """
        found: dict[str, Problem] = {}
        for number, problem in enumerate(error.problems):
            origin = self._origin(problem.where)
            key = origin if origin != problem.where else f"{number}: {origin}"
            text = self.hide(problem.text)
            fault, semicolon, cure = text.partition("; ")
            found.setdefault(key, Problem(origin, f"{fault}{self._variables(origin, text)}{semicolon}{cure}"))
        return CompositionError(found.values())

    def _variables(self, where: str, text: str) -> str:
        """Return from which variables the value at a key path comes, unless the text of its problem names them."""
        value = value_at(self.written, where) if len(where) <= LONGEST_PLACE else None
        names = names_in(value) if isinstance(value, str) else []
        if not names or any(f"${{{name}" in text or f"variable {name} " in text for name in names):
            return ""
        return f" (from {' and '.join(f'${{{name}}}' for name in names)})"


def value_at(value: Any, where: str) -> Any:
    """Return the value at a key path below a value, or None if there is none."""
    if not where:
        return value
    if is_list(value):
        number, _, rest = where.removeprefix("[").partition("]")
        known = where.startswith("[") and number.isdecimal() and int(number) < len(value)
        return value_at(value[int(number)], rest.removeprefix(".")) if known else None
    if is_table(value):
        for found in re.finditer(r"[.\[]|$", where):  # a key may have a dot in it
            if (key := where[: found.start()]) in value:
                return value_at(value[key], where[found.start() :].removeprefix("."))
    return None


def read_tables(path: Path | str) -> FileTables:
    """Return the tables of a node file in any format, unchecked.

    Raise `CompositionError` if it cannot be read, or has values that no setting can have.
    """
    read = read_file(path)
    if read.problems:
        raise read.in_the_file(CompositionError(read.problems))
    return read


def read_file(path: Path | str) -> FileTables:
    """Return the tables of a node file as `read_tables` does, with the problems of its values."""
    read = _read(path)
    try:
        problems = value_problems(read.tables, Path(path))
    except CompositionError as error:
        raise read.in_the_file(error) from error
    values = Values(read.tables, {problem.where for problem in problems}, references=_is_toml(path))
    return FileTables(
        tables=values.tables,
        notices=read.notices,
        summary=read.summary,
        origins=read.origins,
        written=read.tables if _is_toml(path) else escaped(read.tables),
        problems=(*problems, *values.problems),
        hide=values.hide,
    )


def _is_toml(path: Path | str) -> bool:
    return _suffix(path) in ("", BUILT_IN)


def _suffix(path: Path | str) -> str:
    return Path(path).suffix.lower().removeprefix(".")


def _read(path: Path | str) -> NodeTables:
    suffix = _suffix(path)
    if _is_toml(path):
        return NodeTables(_toml(Path(path)))
    try:
        check_regular(Path(path))
    except (OSError, ValueError) as error:
        raise unreadable(Path(path), error) from error
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
        raise CompositionError(Problem(str(path), f"is not TOML: {explained(str(error), text)}")) from error
    except ValueError as error:  # a number of thousands of digits, or a date that no calendar has
        text = "has a number of too many digits, or a date or time that does not exist"
        raise CompositionError(Problem(str(path), text)) from error
    except RecursionError as error:
        raise too_deep(path) from error
