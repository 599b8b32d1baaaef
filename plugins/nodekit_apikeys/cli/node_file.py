"""The place of the keys that a node file names, and the problems of commands with the two."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, cast

import click

from nodekit import CompositionError, NodekitError, Problem, load_node, printable, read_node_file, resolved_path
from nodekit_apikeys.cli.places import FilePlace, KeyPlace, StorePlace

FAILED = 1
BAD_NODE_FILE = 3

_CURE = 'add [[plugins]] with use = "apikeys" and path = "keys", or keys = "store"'


def place_of_keys(file: str) -> KeyPlace:
    """Return where a node file has its keys. Raise `CompositionError` if it does not say so."""
    plugins: object = read_node_file(file).get("plugins")
    tables: list[Any] = plugins if isinstance(plugins, list) else []  # pyright: ignore[reportUnknownVariableType]
    found = [cast("dict[str, Any]", one) for one in tables if isinstance(one, dict)]
    found = [table for table in found if table.get("use") == "apikeys"]
    if len(found) != 1:
        text = f"names no plugin apikeys; {_CURE}" if not found else "names the plugin apikeys twice; remove one"
        raise CompositionError(Problem("plugins", text))
    path, place = found[0].get("path"), found[0].get("keys", "file")
    if place == "store" and path is None:
        return StorePlace(file)
    if place != "file":
        text = f'the plugin apikeys has keys = {place!r:.100}; expected "store" and no path, or a path alone'
        raise CompositionError(Problem("plugins", text))
    if not isinstance(path, str) or not path:
        raise CompositionError(Problem("plugins", f"the plugin apikeys names no file; {_CURE}"))
    if "\0" in path:
        raise CompositionError(Problem("plugins", "path: no file has a NUL in its name"))
    try:
        return FilePlace(resolved_path(path, Path(file).absolute().parent))
    except ValueError as error:
        raise CompositionError(Problem("plugins", f"path: {error}")) from error


@contextmanager
def explained(file: str) -> Iterator[None]:
    """Print one line per problem and exit."""
    try:
        yield
    except CompositionError as error:
        for problem in error.problems:
            tell(str(problem) if problem.where == file else f"{file}: {problem}")
        sys.exit(BAD_NODE_FILE)
    except NodekitError as error:
        fail(str(error))


def fail(text: str) -> NoReturn:
    tell(f"nodekit: {text}")
    sys.exit(FAILED)


def tell(text: str) -> None:
    click.echo(printable(text), err=True)


def warn_of_unknown(file: str, containers: Sequence[str], pipelines: Sequence[str]) -> None:
    """Print a warning for each container or pipeline that the node does not have: the key would be of no use there.

    Other nodes of a cluster may have it. A node file that does not compose is checked by `nodekit check`.
    """
    if not containers and not pipelines:
        return
    try:
        node = load_node(file)
    except CompositionError:
        return
    for option, given, known in (("container", containers, node.containers), ("pipeline", pipelines, node.pipelines)):
        for name in given:
            if name not in known:
                nearest = get_close_matches(name, known, 1)
                cure = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(known) or 'none'}"
                text = f"warning: --{option}: {file} has no {option} {name[:100]!r}; {cure}"
                click.echo(printable(f"nodekit: {text}"), err=True)
