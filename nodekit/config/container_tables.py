"""Container tables of a node file. Each is split between its runner and the plugins that declare rules."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from nodekit.config.convert import MOST_UNKNOWN, Converted, Converter, fields_of, plain
from nodekit.config.key_places import KeyPlaces
from nodekit.config.providers import Provider
from nodekit.config.shapes import is_table
from nodekit.errors import Problem
from nodekit.hooks.container_rules import clashes, keys_of, nearest, not_rules
from nodekit.node.container_ids import id_problem


class ContainerTables:
    """Reader of container tables. It uses `converter`, `places` and `problem` of the node file's composition."""

    def __init__(self, converter: Converter, places: KeyPlaces, problem: Callable[[str, str], None]) -> None:
        self._converter = converter
        self._places = places
        self._problem = problem
        self._declared: list[tuple[str, str, type[msgspec.Struct]]] = []
        """Rules of plugins, each with the plugin's place and name."""
        self._rules: dict[str, type[msgspec.Struct]] = {}
        self._rules_known = True
        """True if every plugin was found. Otherwise an unknown key may belong to a missing plugin."""
        self._ids: dict[str, str] = {}
        """Key paths of containers, by their ids."""
        self.wrong_ids: dict[str, str] = {}
        """Problems of ids, by their key paths. Their runners are still built, to find further problems."""

    def declare(self, plugins: Iterable[tuple[str, str, Provider[Any]]], *, complete: bool) -> None:
        """Register the rules of plugins, each with its place and name.

        `complete` is true if every named plugin was found.
        """
        self._rules_known = complete
        for where, use, provider in plugins:
            if text := not_rules(provider.container):
                self._problem(where, f"container= of its provider {text}")
            elif provider.container:
                self._declared.append((where, repr(use), provider.container))
                self._rules.update(dict.fromkeys(keys_of(provider.container), provider.container))

    def drop_clashing(self, runners: Iterable[tuple[str, str, Provider[Any]]]) -> None:
        """Drop all rules if one has the name of a container's own key. Each such rule is a problem."""
        structs = [(f"{where} ({use!r})", provider.container) for where, use, provider in runners if provider.container]
        own = {key: runner for runner, struct in structs if not not_rules(struct) for key in keys_of(struct)}
        if found := list(clashes(self._declared, own)):
            for problem in found:
                self._problem(problem.where, problem.text)
            self._rules, self._rules_known = {}, False

    def read(self, entry: Any, where: str, struct: type[msgspec.Struct]) -> Converted:
        """Return the container of a table, with its rules. Problems are kept by the composition."""
        if not is_table(entry):
            problem = Problem(where, "expected a table")
            self._problem(where, problem.text)
            return Converted(None, [problem])
        if isinstance(id := entry.get("id"), str):
            self._check_id(str(id), where)
        known = [key for key in keys_of(struct) if key != "rules"]
        rules = {key: plain(value, self._rule_type(key)) for key, value in entry.items() if key in self._rules}
        own = {key: value for key, value in entry.items() if key in known}
        unread = [key for key in entry if key not in known and key not in self._rules]
        for key in unread[:MOST_UNKNOWN]:
            self._unread(where, key, struct, [*known, *self._rules])
        problems: list[Problem] = []
        for rule_struct in dict.fromkeys(self._rules.values()):
            mine = {key: value for key, value in rules.items() if self._rules[key] is rule_struct}
            problems += self._converter.table(mine, rule_struct, where, strict=True).problems
        made = self._converter.table(own, struct, where, strict=True)
        problems += made.problems
        misspelt = {nearest(key, known) for key in unread[:MOST_UNKNOWN]}
        for problem in problems:
            key = problem.where.removeprefix(f"{where}.")
            # One problem, of the key that is there, says both that it is unknown and which one is missing.
            if problem.text == "is missing" and f"; did you mean {key!r}?" in misspelt:
                continue
            if problem.where not in self.wrong_ids:
                self._problem(problem.where, problem.text)
        value = made.value if problems or made.value is None else replace(made.value, rules=rules)
        unknown = [Problem(f"{where}.{key}", "unknown key") for key in unread]
        return Converted(value, [*problems, *unknown], made.faulty)

    def _rule_type(self, key: str) -> Any:
        return fields_of(self._rules[key])[key].type

    def _check_id(self, id: str, where: str) -> None:
        text, other = id_problem(id), self._ids.setdefault(id, where)
        if text is None and other != where:
            text = f"{id!r} is the id of {other} already; an id belongs to one container of one runner"
        if text is not None:
            self.wrong_ids[f"{where}.id"] = text

    def _unread(self, where: str, key: str, struct: type[msgspec.Struct], known: Sequence[str]) -> None:
        if self._rules_known:
            cure = self._places.elsewhere(key, struct, known) or self._places.misspelt(key, known)
            cure = cure.removeprefix("; ") or "add the plugin that does under [[plugins]], or remove the key"
            text = f"unknown key: neither its runner nor a plugin of this node reads it; {cure}"
            self._problem(f"{where}.{key}", text)
        elif cure := self._places.misspelt(key, known):  # others may be keys of the plugin that is missing
            self._problem(f"{where}.{key}", f"unknown key{cure}")
