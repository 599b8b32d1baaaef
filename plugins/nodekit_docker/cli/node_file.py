"""The Docker containers that a node file names, and the containers that exist for them."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import click
import msgspec

from nodekit import CompositionError, NodekitError, node_name, printable, read_node_file, resolved_path
from nodekit_docker.containers.ownership import Ownership
from nodekit_docker.containers.state import CONTAINER, NODE, Made, State
from nodekit_docker.containers.state_folder import FOLDER, StateFolder, StateUnusable
from nodekit_docker.engine.engine import Engine
from nodekit_docker.engine.errors import EngineRefused
from nodekit_docker.engine.find import find_engine

T = TypeVar("T")

FAILED = 1
BAD_NODE_FILE = 3


class Entry(msgspec.Struct, frozen=True):
    """A container of the node file. Its other settings, which may hold secrets, are not read.

    - `host`, `state`: Those of its runner.
    - `once`: True for a program, which gets a container for each step.
    """

    id: str
    image: str
    host: str | None
    state: str | None
    once: bool


class Asked:
    """The engines of a node file, for a command without an event loop. Raises `EngineGone` and `EngineRefused`."""

    def __init__(self, path: str) -> None:
        tables = read_node_file(path)
        self.node = node_name(tables, Path(path))
        self.entries = list(_entries(tables))
        self._folder = Path(path).absolute().parent
        self._owners = {state: self._ownership(state) for state in {entry.state for entry in self.entries}}
        self._engines = {host: Engine(find_engine(host)) for host in {entry.host for entry in self.entries}}
        for engine in self._engines.values():
            engine.translated(engine.client)  # connect here, before several threads ask at once

    def close(self) -> None:
        for engine in self._engines.values():
            engine.close()

    def engine(self, host: str | None) -> Engine:
        return self._engines[host]

    def ask(self, entry: Entry, function: Callable[[Any], T]) -> T:
        """Call the function with the client of the entry's engine, and return its result."""
        engine = self.engine(entry.host)
        return engine.translated(lambda: function(engine.client()))

    def state(self, entry: Entry) -> State | None:
        """Return the state of the entry's newest container. Return None if there is none."""
        found = self.listed(entry, running_only=False)
        states = (self._inspected(entry, one["Id"]) for one in found)
        return next((state for state in states if state is not None), None)

    def listed(self, entry: Entry, *, running_only: bool) -> Sequence[Mapping[str, Any]]:
        """List the entry's containers, newest first."""
        labels = [f"{NODE}={self.node}", f"{CONTAINER}={entry.id}"]
        found = self.ask(entry, lambda api: list(api.containers(all=not running_only, filters={"label": labels})))
        owner = self._owners[entry.state]
        return [one for one in found if owner is None or owner.owns("container", Made.container(one))]

    def _ownership(self, state: str | None) -> Ownership | None:
        """Return the node's proof of ownership. Return None, with a note, if its secret cannot be read from here."""
        try:
            folder = StateFolder(resolved_path(state or FOLDER, self._folder), self.node)
        except ValueError as error:
            raise NodekitError(f"state: {error}") from error
        try:
            secret, why = folder.found_secret(), "there is none"
        except StateUnusable as error:
            secret, why = None, str(error)
        if secret is None:
            text = f"nodekit: containers are shown by their labels alone, without {folder.secret_path}: {why}"
            click.echo(text, err=True)
            return None
        return Ownership(secret, self.node, folder.secret_path)

    def _inspected(self, entry: Entry, id: str) -> State | None:
        try:
            return State.of(self.ask(entry, lambda api: api.inspect_container(id)))
        except EngineRefused as error:
            if error.status != 404:
                raise
            return None


@contextmanager
def explained(path: str) -> Iterator[None]:
    """Print one line per problem and exit."""
    try:
        yield
    except CompositionError as error:
        for problem in error.problems:
            click.echo(str(problem) if problem.where == path else f"{path}: {problem}", err=True)
        sys.exit(BAD_NODE_FILE)
    except NodekitError as error:
        click.echo(printable(f"nodekit: {error}"), err=True)
        sys.exit(FAILED)


def _entries(tables: Mapping[str, Any]) -> Iterator[Entry]:
    for runner in _tables(tables.get("runners")):
        if runner.get("use") == "docker":
            for container in _tables(runner.get("containers")):
                id, image = str(container.get("id", "")), str(container.get("image", ""))
                state = str(runner["state"]) if "state" in runner else None
                yield Entry(id, image, runner.get("host"), state, container.get("mode") == "once")


def _tables(value: Any) -> list[dict[str, Any]]:
    """Return the items that are tables. `nodekit check` complains about the rest."""
    return [cast("dict[str, Any]", one) for one in _list(value) if isinstance(one, dict)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []  # pyright: ignore[reportUnknownVariableType]
