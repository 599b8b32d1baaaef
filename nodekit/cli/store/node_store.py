"""The store of a node file, for commands that work on it beside its node or while no node runs."""

import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import anyio
import click

from nodekit.cli.exit_codes import FAILED, bad_node_file
from nodekit.config.compose import compose_store
from nodekit.config.formats import read_file
from nodekit.errors import CompositionError, NodekitError
from nodekit.foreign_text import printable
from nodekit.interfaces.store import JobStore

T = TypeVar("T")


def store_of(file: str) -> JobStore:
    """Return the store of a node file; exit with 3 and a line per problem if there is none."""
    try:
        return compose_store(read_file(file), Path(file))
    except CompositionError as error:
        bad_node_file(file, error)


def run(file: str, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a call on the store; exit with 1 and a line if it fails."""
    try:
        return anyio.run(call)
    except NodekitError as error:
        click.echo(printable(f"{file}: store: {error}"), err=True)
        sys.exit(FAILED)
