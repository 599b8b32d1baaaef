"""Construction of a Node from a node file. Everything a node file can express, Python can express too."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from msgspec.structs import replace

from nodekit.config.addresses import clashing_addresses
from nodekit.config.container_tables import ContainerTables
from nodekit.config.convert import MOST_FAULTS, MOST_UNKNOWN, Converted, Converter
from nodekit.config.distributions import read_once
from nodekit.config.failures import CURE, described, keep
from nodekit.config.findings import Configured, ExaminedFile
from nodekit.config.formats import FileTables, read_file, read_tables
from nodekit.config.key_places import KINDS, KeyPlaces
from nodekit.config.log_settings import LogSettings, unknown_loggers
from nodekit.config.paths import resolved_path
from nodekit.config.problems import enumerated, is_certain, position, prefixes, renumbered
from nodekit.config.providers import Kind, NodeFile, Provider, load_provider, provided
from nodekit.config.secrets import Secret
from nodekit.config.shapes import is_list, is_table
from nodekit.errors import CompositionError, NodekitError, Problem
from nodekit.hooks.container_rules import declared_twice, not_rules
from nodekit.interfaces.store import JobStore
from nodekit.model.limits import NodeLimits
from nodekit.node.names import default_name, name_problem
from nodekit.node.node import Node

T = TypeVar("T")

TABLES = ("node", "log", "store", "runners", "transports", "pipelines", "plugins")

_SEVERAL = "there may be several of these: write [[{0}]] in place of [{0}]"


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
        super().__post_init__()
        if self.name is not None and (problem := name_problem(self.name)):
            raise ValueError(f"name: {problem}")


@read_once()
def load_node(path: Path | str) -> Node:
    """Compose the node of a node file; nothing is acquired. Raise `CompositionError` with every problem."""
    return compose_file(read_file(path), Path(path))


def read_node_file(path: Path | str) -> dict[str, Any]:
    """Return the tables of a node file, unchecked, with the values of environment variables that it refers to.

    Raise `CompositionError` if it cannot be read.
    """
    return read_tables(path).tables


def compose_file(file: FileTables, path: Path) -> Node:
    """Compose a node as `compose` does. Problems name their places in the file."""
    try:
        return compose(file.tables, path, file.problems)
    except CompositionError as error:
        raise file.in_the_file(error) from error


@read_once()
def compose(tables: Mapping[str, Any], path: Path, of_values: Sequence[Problem] = ()) -> Node:
    """Return the node that the tables of a node file at `path` describe.

    `of_values` are problems of single values, which are None in the tables.
    """
    return Composition(tables, path, of_values).node()


class Examined(NamedTuple):
    """A node file, as far as it is valid.

    - `limits`: None if the table ``[node]`` is not valid.
    - `made`: The node, or the problems of the file.
    """

    file: ExaminedFile
    limits: NodeLimits | None
    made: Node | CompositionError


@read_once()
def examine_file(file: FileTables, path: Path) -> Examined:
    """Compose a node, and return also what is valid of a file that does not compose."""
    composition = Composition(file.tables, path, file.problems)
    try:
        made: Node | CompositionError = composition.node()
    except CompositionError as error:
        made = file.in_the_file(error)
    return Examined(ExaminedFile(composition.file, tuple(composition.configured)), composition.limits, made)


def compose_store(file: FileTables, path: Path) -> JobStore:
    """Return the store that a node file at `path` describes. It is not entered. Problems name their places in it."""
    try:
        return Composition(file.tables, path, file.problems).only_store()
    except CompositionError as error:
        raise file.in_the_file(error) from error


def log_settings(tables: Mapping[str, Any], path: Path) -> LogSettings:
    """Return the table ``[log]`` of a valid node file, or its defaults."""
    return Composition(tables, path).log() or LogSettings()


def node_name(tables: Mapping[str, Any], path: Path | str) -> str:
    """Return the name of the node that the tables of a node file at `path` describe.

    The name is `name` of the table ``[node]``, or else made from the file's path: no other file's node has it, and it
    stays the same as long as the file stays in its place. Raise `CompositionError` if the table is invalid.
    """
    composition = Composition(tables, Path(path))
    composition.node_settings()
    composition.raise_problems()
    return composition.file.node


class Composition:
    """A composition in progress. It reads every table before it gives up, so that one run shows every problem.

    `of_values` are problems of single values, which are None in the tables.
    """

    def __init__(self, tables: Mapping[str, Any], path: Path, of_values: Sequence[Problem] = ()) -> None:
        self.tables = tables
        self.folder = path.absolute().parent
        self.problems: list[Problem] = []
        self.configured: list[Configured] = []
        """The settings of the components that could be built."""
        self._of_values = {problem.where: problem for problem in of_values}
        self._incomplete = {above for where in self._of_values for above in prefixes(where)}
        """Key paths of such values, and of the tables that they are in."""
        self._providers: dict[str, Provider[Any] | None] = {}
        self._single: set[str] = set()
        """Keys of lists of tables that were written as a single one."""
        self._places = KeyPlaces()
        self._places.add("[node]", NodeSettings)
        if "log" in tables:
            self._places.add("[log]", LogSettings)
        self._converter = Converter(self.resolve, self._places.cure)
        self.container_tables = ContainerTables(self._converter, self._places, self.problem)
        self.limits: NodeLimits | None = None
        """The limits of the table ``[node]``, if it is valid."""
        self.file = NodeFile(path.absolute(), default_name(path))

    def node(self) -> Node:
        self._find_providers()
        for key in [key for key in self.tables if key not in TABLES][:MOST_UNKNOWN]:
            self.problem(key, f"unknown table{self._places.cure_of_table(key, TABLES)}")
        settings = self.node_settings()
        plugins = self.components("plugin", "plugins")
        runners = self.components("runner", "runners")
        transports = self.components("transport", "transports")
        pipelines = self.components("pipeline", "pipelines")
        store = self.store()
        self.log()
        self.problems += clashing_addresses(self.configured, self.folder)
        self.problems += [Problem(where, text) for where, text in self.container_tables.wrong_ids.items()]
        self.raise_problems(self._of_values.values())
        return Node(
            store=store,
            runners=[component for _, component in runners],
            transports=[component for _, component in transports],
            pipelines=dict(pipelines),
            plugins=[component for _, component in plugins],
            name=self.file.node,
            limits=settings.limits(),
            trace_hooks=settings.trace_hooks,
        )

    def node_settings(self) -> NodeSettings:
        """Return the table ``[node]``, and take the node's name from it."""
        valid = self.convert(self.table("node"), NodeSettings, "node")
        settings = valid or NodeSettings()
        self.limits = valid and valid.limits()
        self.file = NodeFile(self.file.path, settings.name or self.file.node)
        return settings

    def only_store(self) -> JobStore:
        self.node_settings()
        store: JobStore = self.store()
        used = [one for one in self._of_values.values() if re.match(r"(store|node)\b", one.where)]
        self.raise_problems(used)
        return store

    def log(self) -> LogSettings | None:
        table = self.table("log")
        settings = self.convert(table, LogSettings, "log")
        for name, text in unknown_loggers(table):
            self.problem(f"log.levels.{name}", text)
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
        table = self.table("store")
        return self.component("store", table, "store", self.provider("store", table, "store"))

    def raise_problems(self, more: Iterable[Problem] = ()) -> None:
        """Raise `CompositionError` if there are problems, in the order of the file."""
        if found := dict.fromkeys([*more, *self.problems]):
            places = {table: number for number, table in enumerate(self.tables)}
            raise CompositionError(sorted(found, key=lambda problem: position(problem, places)))

    def _find_providers(self) -> None:
        """Find all providers first, so that a key in the wrong table is known to belong to another one."""
        for kind in KINDS:
            key = "store" if kind == "store" else f"{kind}s"
            tables = self.table(key) if kind == "store" else self._list(key)
            named = enumerated(key, tables) if is_list(tables) and kind != "store" else []
            for where, table in [(key, tables)] if kind == "store" and key in self.tables else named:
                if (provider := self.provider(kind, table, where)) is not None:
                    use: str = table["use"] if is_table(table) else ""
                    self._places.add_provider(kind, str(use), provider)

    def components(self, kind: Kind, key: str) -> list[tuple[str, Any]]:
        """Return the components of a list of tables, each with the name of its provider."""
        entries = self._list(key)
        if not is_list(entries):
            self.problem(key, f"expected a list of tables: [[{key}]]")
            return []
        named = enumerated(key, entries)
        providers = [self.provider(kind, table, where) for where, table in named]
        found = [
            (where, str(table["use"]), provider)
            for (where, table), provider in zip(named, providers, strict=True)
            if provider
        ]
        if kind == "plugin":
            self.container_tables.declare(found, complete=None not in providers)
        elif kind == "runner":
            self.container_tables.drop_clashing(found)
        tables = dict(named)
        return [(use, self.component(kind, tables[where], where, provider)) for where, use, provider in found]

    def _list(self, key: str) -> Any:
        """Return the tables of a key. One that was written as a single table is a problem, and is read all the same."""
        entries = self.tables.get(key, [])
        if not is_table(entries):
            return entries
        if key not in self._single:
            self._single.add(key)
            self.problem(key, _SEVERAL.format(key))
        return [entries] if entries else []

    def provider(self, kind: Kind, table: Any, where: str) -> Provider[Any] | None:
        """Return the provider of a table, or None after a problem. A table is looked at once."""
        if where not in self._providers:
            self._providers[where] = self._found_provider(kind, table, where)
        return self._providers[where]

    def _found_provider(self, kind: Kind, table: Any, where: str) -> Provider[Any] | None:
        if f"{where}.use" in self._of_values:
            return None
        if not is_table(table) or not isinstance(table.get("use"), str):
            known = ", ".join(sorted(provided(kind))) or "those that packages provide; none is installed"
            self.problem(where, f'does not say which {kind} it is; add: use = "…", one of {known}')
            return None
        try:
            return load_provider(kind, str(table["use"]))
        except NodekitError as error:
            self.problem(f"{where}.use", str(error))
            return None

    def component(self, kind: Kind, table: Any, where: str, provider: Provider[Any] | None) -> Any:
        """Return the component of a table, or None after a problem.

        It is built also if some of its keys have problems, without these, to find those of the others.
        """
        if provider is None:
            return None
        before = len(self.problems)
        settings = {key: value for key, value in table.items() if key != "use"}
        containers = self.containers(settings.pop("containers", []), where, provider) if kind == "runner" else []
        made = self.converted(settings, provider.config, where)
        complete = len(self.problems) == before and not any(one.problems for one in (made, *containers))
        kept = [(number, one) for number, one in enumerate(containers) if one.value is not None]
        if made.value is None or (containers and not kept):
            return None
        config = made.value
        if kind == "runner":
            config = replace(config, containers=tuple(one.value for _, one in kept))
        if complete:
            self.configured.append(Configured(kind, str(table["use"]), where, config))
        component, found = self._built(kind, str(table["use"]), provider, config)
        numbers = [number for number, _ in kept]
        problems = [renumbered(problem, numbers) for problem in found]
        if not complete:
            problems = [one for one in problems if is_certain(one, made, containers)]
        placed = [Problem(f"{where}.{p.where}" if p.where else where, p.text) for p in problems]
        self.problems += [problem for problem in placed if problem.where not in self.container_tables.wrong_ids]
        return component if complete and not found else None

    def _built(self, kind: Kind, use: str, provider: Provider[Any], config: Any) -> tuple[Any, Sequence[Problem]]:
        """Build a component. Return it, or its problems with their places in its table."""
        try:
            component = provider.build(config, self.file)
            text = declared_twice(component, provider.container) if kind == "plugin" else None
            return component, [Problem("", text)] if text else []
        except CompositionError as error:
            return None, error.problems
        except NodekitError as error:
            return None, [Problem("", str(error))]
        except (Exception, SystemExit) as error:  # a bug of the component, reported like its other problems
            return None, [Problem("", described(error, f"{use!r} cannot be built"))]

    def containers(self, entries: Any, where: str, provider: Provider[Any]) -> list[Converted]:
        """Return the containers of a runner."""
        if text := not_rules(provider.container):
            self.problem(where, f"container= of its provider {text}")
            return []
        name = f"{where.split('[')[0]}.containers"
        if is_table(entries) and entries and provider.container is not None:
            self.problem(f"{where}.containers", _SEVERAL.format(name))
            entries = [entries]
        if provider.container is None or not is_list(entries):
            self.problem(f"{where}.containers", f"expected a list of tables: [[{name}]]")
            return []
        found: list[Converted] = []
        for place, entry in enumerated(f"{where}.containers", entries):
            if len(self.problems) >= MOST_FAULTS:
                break
            found.append(self.container_tables.read(entry, place, provider.container))
        return found

    # -- values -----------------------------------------------------------------------------------

    def table(self, key: str) -> Any:
        """Return a table that there is once. One that was written as a list is a problem, and its first one is read."""
        found = self.tables.get(key, {})
        if not is_list(found) or not found or not is_table(found[0]):
            return found
        if key not in self._single:
            self._single.add(key)
            self.problem(key, f"there is one of these: write [{key}] in place of [[{key}]]")
        return found[0]

    def convert(self, value: Any, struct: type[T], where: str) -> T | None:
        """Return the value as a Struct, or None after a problem."""
        made = self.converted(value, struct, where)
        return None if made.problems else made.value

    def converted(self, value: Any, struct: type[Any], where: str) -> Converted:
        """Convert a table, and keep its problems."""
        try:
            made = self._converter.table(value, struct, where, strict=True)
        except Exception as error:  # types that msgspec does not know, or cannot find
            text = "its package has settings of unknown types"
            keep(error, f"{where}: {text}")
            text = f"{text}: {type(error).__name__}; report this to its authors; {CURE}"
            made = Converted(None, [Problem(where, text)])
        for problem in made.problems:
            self.problem(problem.where, problem.text)
        if where in self._incomplete:
            made.problems.append(Problem(where, "has a value that cannot be used"))
        return made

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

    def problem(self, where: str, text: str) -> None:
        """Keep a problem, unless it is the consequence of one of a value that is known already."""
        if not any(above in self._of_values for above in prefixes(where)):
            self.problems.append(Problem(where, text))
