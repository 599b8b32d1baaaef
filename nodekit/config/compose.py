"""Construction of a Node from a node file. Everything a node file can express, Python can express too."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

import msgspec
from msgspec.structs import replace

from nodekit.config.container_tables import ContainerTables
from nodekit.config.distributions import read_once
from nodekit.config.explain import explain
from nodekit.config.failures import CURE, described, keep
from nodekit.config.formats import NodeTables, read_tables
from nodekit.config.log_settings import LogSettings
from nodekit.config.paths import resolved_path
from nodekit.config.providers import Kind, NodeFile, Provider, load_provider, provided
from nodekit.config.secrets import Secret
from nodekit.errors import CompositionError, NodekitError, Problem
from nodekit.hooks.container_rules import declared_twice, nearest, not_rules
from nodekit.interfaces.store import JobStore
from nodekit.model.limits import NodeLimits
from nodekit.node.names import default_name, name_problem
from nodekit.node.node import Node

T = TypeVar("T")

TABLES = ("node", "log", "store", "runners", "transports", "pipelines", "plugins")


MOST_UNKNOWN = 100
"""Maximum number of unknown tables that are named, since finding the nearest known name takes a while."""


class NodeSettings(NodeLimits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table ``[node]``.

    - `name`: Lower-case letters, digits and ``_.-``, beginning with a letter or digit; at most 64.
    - `trace_hooks`: True to log each call of a plugin's hook.
    """

    name: str | None = None
    trace_hooks: bool = False

    def limits(self) -> NodeLimits:
        """Return the limits alone."""
        return NodeLimits(**{name: getattr(self, name) for name in NodeLimits.__struct_fields__})

    def __post_init__(self) -> None:
        if self.name is not None and (problem := name_problem(self.name)):
            raise ValueError(f"name: {problem}")


@read_once()
def load_node(path: Path | str) -> Node:
    """Compose the node of a node file; nothing is acquired. Raise `CompositionError` with every problem."""
    return compose_file(read_tables(path), Path(path))


def read_node_file(path: Path | str) -> dict[str, Any]:
    """Return the tables of a node file, unchecked. Raise `CompositionError` if it cannot be read."""
    return read_tables(path).tables


def compose_file(file: NodeTables, path: Path) -> Node:
    """Compose a node as `compose` does. Problems name their places in the file."""
    try:
        return compose(file.tables, path)
    except CompositionError as error:
        raise file.in_the_file(error) from error


@read_once()
def compose(tables: Mapping[str, Any], path: Path) -> Node:
    """Return the node that the tables of a node file at `path` describe."""
    return _Composition(tables, path).node()


def compose_store(file: NodeTables, path: Path) -> JobStore:
    """Return the store that a node file at `path` describes. It is not entered. Problems name their places in it."""
    try:
        return _Composition(file.tables, path).only_store()
    except CompositionError as error:
        raise file.in_the_file(error) from error


def log_settings(tables: Mapping[str, Any], path: Path) -> LogSettings:
    """Return the table ``[log]`` of a valid node file, or its defaults."""
    return _Composition(tables, path).log() or LogSettings()


def node_name(tables: Mapping[str, Any], path: Path | str) -> str:
    """Return the name of the node that the tables of a node file at `path` describe.

    The name is `name` of the table ``[node]``, or else made from the file's path: no other file's node has it, and it
    stays the same as long as the file stays in its place. Raise `CompositionError` if the table is invalid.
    """
    composition = _Composition(tables, Path(path))
    if composition.problems:
        raise CompositionError(composition.problems)
    return composition.file.node


class _Composition:
    """A composition in progress. It reads every table before it gives up, so that one run shows every problem."""

    def __init__(self, tables: Mapping[str, Any], path: Path) -> None:
        self.tables = tables
        self.folder = path.absolute().parent
        self.problems: list[Problem] = []
        self.container_tables = ContainerTables(self.convert, self.problem)
        self.settings = self.convert(self.table("node"), NodeSettings, "node") or NodeSettings()
        self.file = NodeFile(path.absolute(), self.settings.name or default_name(path))

    def node(self) -> Node:
        for key in [key for key in self.tables if key not in TABLES][:MOST_UNKNOWN]:
            self.problem(key, f"unknown table{nearest(key, TABLES)}")
        plugins = self.components("plugin", "plugins")
        runners = self.components("runner", "runners")
        transports = self.components("transport", "transports")
        pipelines = self.components("pipeline", "pipelines")
        store = self.store()
        self.log()
        self.problems += [Problem(where, text) for where, text in self.container_tables.wrong_ids.items()]
        if self.problems:
            raise CompositionError(sorted(self.problems, key=self.position))
        return Node(
            store=store,
            runners=[component for _, component in runners],
            transports=[component for _, component in transports],
            pipelines=dict(pipelines),
            plugins=[component for _, component in plugins],
            name=self.file.node,
            limits=self.settings.limits(),
            trace_hooks=self.settings.trace_hooks,
        )

    def only_store(self) -> JobStore:
        store: JobStore = self.store()
        if self.problems:
            raise CompositionError(self.problems)
        return store

    def log(self) -> LogSettings | None:
        settings = self.convert(self.table("log"), LogSettings, "log")
        try:
            return None if settings is None else settings.in_folder(self.folder)
        except ValueError as error:
            key, _, text = str(error).partition(": ")
            self.problem(f"log.{key}", text)
            return None

    def store(self) -> Any:
        if "store" not in self.tables:
            self.problem("store", 'is missing; add a table [store] with use = "sqlite" and path = "jobs.db"')
            return None
        return self.component(
            "store", self.table("store"), "store", self.provider("store", self.table("store"), "store")
        )

    def components(self, kind: Kind, key: str) -> list[tuple[str, Any]]:
        """Return the components of a list of tables, each with the name of its provider."""
        entries = self.tables.get(key, [])
        if not _is_list(entries):
            self.problem(key, f"expected a list of tables: [[{key}]]")
            return []
        named = [(f"{key}[{number}]", table) for number, table in enumerate(entries)]
        providers = [self.provider(kind, table, where) for where, table in named]
        found = [
            (where, table["use"], provider)
            for (where, table), provider in zip(named, providers, strict=True)
            if provider
        ]
        if kind == "plugin":
            self.container_tables.declare(found, complete=None not in providers)
        elif kind == "runner":
            self.container_tables.drop_clashing(found)
        tables = dict(named)
        return [(use, self.component(kind, tables[where], where, provider)) for where, use, provider in found]

    def provider(self, kind: Kind, table: Any, where: str) -> Provider[Any] | None:
        if not _is_table(table) or not isinstance(table.get("use"), str):
            self.problem(
                where, f'does not say which {kind} it is; add: use = "…", one of {", ".join(sorted(provided(kind)))}'
            )
            return None
        try:
            return load_provider(kind, table["use"])
        except NodekitError as error:
            self.problem(f"{where}.use", str(error))
            return None

    def component(self, kind: Kind, table: Any, where: str, provider: Provider[Any] | None) -> Any:
        if provider is None:
            return None
        settings = {key: value for key, value in table.items() if key != "use"}
        before = len(self.problems)
        containers = self.containers(settings.pop("containers", []), where, provider) if kind == "runner" else None
        config = self.convert(settings, provider.config, where, provider.container if kind == "plugin" else None)
        if config is None or None in (containers or ()) or len(self.problems) > before:
            return None
        try:
            component = provider.build(
                config if containers is None else replace(config, containers=containers), self.file
            )
            if kind == "plugin" and (text := declared_twice(component, provider.container)):
                self.problem(where, text)
            return component
        except CompositionError as error:
            found = [Problem(f"{where}.{p.where}" if p.where else where, p.text) for p in error.problems]
            self.problems += [problem for problem in found if problem.where not in self.container_tables.wrong_ids]
        except NodekitError as error:
            self.problem(where, str(error))
        except (Exception, SystemExit) as error:  # a bug of the component, reported like its other problems
            self.problem(where, described(error, f"{table['use']!r} cannot be built"))
        return None

    def containers(self, entries: Any, where: str, provider: Provider[Any]) -> tuple[Any, ...]:
        if text := not_rules(provider.container):
            self.problem(where, f"container= of its provider {text}")
            return ()
        if provider.container is None or not _is_list(entries):
            self.problem(f"{where}.containers", f"expected a list of tables: [[{where.split('[')[0]}.containers]]")
            return ()
        numbered = [(f"{where}.containers[{number}]", entry) for number, entry in enumerate(entries)]
        return tuple(self.container_tables.read(entry, place, provider.container) for place, entry in numbered)

    # -- values -----------------------------------------------------------------------------------

    def table(self, key: str) -> Any:
        return self.tables.get(key, {})

    def convert(self, value: Any, struct: type[T], where: str, rules: type | None = None) -> T | None:
        """Return the value as a Struct, or None after a problem. `rules` has keys that belong to containers."""
        fields: tuple[str, ...] = getattr(struct, "__struct_encode_fields__", ())
        if unknown := [key for key in value if key not in fields] if _is_table(value) else []:
            is_rule = unknown[0] in getattr(rules, "__struct_encode_fields__", ())
            cure = "; it is a key of [[runners.containers]]" if is_rule else nearest(unknown[0], fields)
            self.problem(f"{where}.{unknown[0]}", f"unknown key{cure}")
            return None
        try:
            return msgspec.convert(value, struct, dec_hook=self.resolve)
        except msgspec.ValidationError as error:
            self.problem(*explain(where, str(error), struct))
        except Exception as error:  # types that msgspec does not know, or cannot find
            text = "its package has settings of unknown types"
            keep(error, f"{where}: {text}")
            self.problem(where, f"{text}: {type(error).__name__}; report this to its authors; {CURE}")
        return None

    def resolve(self, kind: type[Any], value: Any) -> Any:
        """Convert types that msgspec does not know: paths relative to the file, and secrets."""
        if issubclass(kind, Path):
            if not isinstance(value, str):
                raise TypeError("expected a path")
            return resolved_path(value, self.folder)
        if issubclass(kind, Secret):
            try:
                return kind.resolve(value, self.folder)
            except NodekitError as error:
                raise ValueError(str(error)) from error
        raise TypeError(f"a node file cannot give a {kind.__name__}")

    def position(self, problem: Problem) -> int:
        """Return the position of the problem's top table in the file."""
        tables = list(self.tables)
        table = re.split(r"[.\[]", problem.where, maxsplit=1)[0]
        return tables.index(table) if table in tables else len(tables)

    def problem(self, where: str, text: str) -> None:
        self.problems.append(Problem(where, text))


def _is_table(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _is_list(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)
