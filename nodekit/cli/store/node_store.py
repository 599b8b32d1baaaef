"""The store of a node file, for commands that work on it beside its node or while no node runs."""

import errno
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import anyio
import click

from nodekit.cli.exit_codes import FAILED, bad_node_file
from nodekit.config.compose import compose_store
from nodekit.config.formats import read_file
from nodekit.errors import CompositionError, NodekitError
from nodekit.foreign_text import printable
from nodekit.interfaces.store import JobStore
from nodekit.interfaces.store_abilities import JobView

T = TypeVar("T")


def store_of(file: str) -> JobStore:
    """Return the store of a node file; exit with 3 and a line per problem if there is none."""
    try:
        return compose_store(read_file(file), Path(file))
    except CompositionError as error:
        bad_node_file(file, error)


def view_of(store: JobStore) -> JobView:
    """Return the jobs of a store: opened beside its node, or, if they cannot be, while no node runs.

    Raise `NodekitError` if they cannot be opened at all.
    """
    for name in ("view", "archive"):
        if (opened := getattr(store, name, None)) is not None:
            view: JobView = opened()
            return view
    raise NodekitError(
        "this kind of store cannot be opened without its node (it has no `view` and no `archive`); ask the node"
    )


def run(file: str, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a call on the store; exit with 1 and a line if it fails."""
    with failures(file):
        return anyio.run(call)


@contextmanager
def failures(file: str) -> Iterator[None]:
    """Exit with 1 and a line if the store fails, or if the output cannot be written."""
    try:
        yield
    except NodekitError as error:
        _fail(f"{file}: store: {error}")
    except OSError as error:
        if error.errno == errno.EPIPE:  # whoever reads the output has gone
            raise
        _fail(f"{file}: {error.strerror or error}{_cure(error)}")


def _cure(error: OSError) -> str:
    cures = {
        errno.ENOSPC: "free some space",
        errno.EACCES: "run this as the node's user",
        errno.EIO: "look at the disk",
    }
    return f"; {cures[error.errno]}" if error.errno in cures else ""


def _fail(text: str) -> NoReturn:
    click.echo(printable(text), err=True)
    sys.exit(FAILED)
