"""Rules of containers: settings that a container carries and a plugin reads.

A plugin declares them in an attribute `container_rules`, a `msgspec.Struct` class whose fields are the keys.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import msgspec

from nodekit.errors import Problem
from nodekit.model.container import Container


def declared_rules(plugin: object) -> type[msgspec.Struct] | None:
    """Return the rules that a plugin reads, or None if it reads none."""
    return getattr(plugin, "container_rules", None)


def declared_twice(plugin: object, provided: type[msgspec.Struct] | None) -> str | None:
    """Return the problem if a plugin and its provider declare different rules: some would never be read."""
    declared = declared_rules(plugin)
    if declared is provided:
        return None
    name = type(plugin).__name__
    if declared is None:
        cure = f"give the class container_rules = {getattr(provided, '__name__', provided)}"
        return f"its provider declares rules of containers that {name} does not; {cure}"
    cure = f"write Provider(…, container={declared.__name__})"
    return f"{name} declares rules of containers that its provider does not; {cure}"


def rule_problems(containers: Sequence[tuple[str, Container]], plugins: Sequence[object]) -> Iterator[Problem]:
    """Yield rules that clash, that no plugin reads, or that a plugin does not accept. Unread rules guard nothing.

    `containers` are those of the node, each with its runner's name.
    """
    declared: list[tuple[str, str, type[msgspec.Struct]]] = []
    for number, plugin in enumerate(plugins):
        place, name, struct = f"plugins[{number}]", type(plugin).__name__, declared_rules(plugin)
        if text := not_rules(struct):
            yield Problem(place, f"{name}.container_rules {text}")
        elif struct is not None:
            declared.append((place, name, struct))
    own = {key: runner for runner, container in containers for key in keys_of(type(container))}
    clashing = list(clashes(declared, own))
    yield from clashing
    if clashing:
        return
    structs = [struct for _, _, struct in declared]
    known = {key: struct for struct in structs for key in keys_of(struct)}
    for _, container in containers:
        rules: Any = container.rules
        if not isinstance(rules, Mapping):
            yield Problem(f"container {container.id!r}", f"rules: expected a mapping, got {rules!r:.100}")
            continue
        for key in container.rules:
            if key not in known:
                cure = (
                    nearest(key, known)
                    or "; a plugin declares the rules that it reads by its attribute `container_rules`"
                )
                yield Problem(f"container {container.id!r}, rule {key!r}", f"no plugin reads it{cure}")
        for struct in structs:
            if text := _not_accepted(container, struct):
                yield Problem(f"container {container.id!r}", text)


def _not_accepted(container: Container, struct: type[msgspec.Struct]) -> str | None:
    try:
        msgspec.convert(rules_of(container, struct), struct)
    except msgspec.ValidationError as error:
        return str(error)
    except Exception as error:  # types that msgspec does not know, or cannot find
        return f"its rules have unknown types: {type(error).__name__}: {error}; report this to the plugin's authors"
    return None


def not_rules(struct: object) -> str | None:
    """Return the problem of the rules that a plugin, or its provider, declares, or None."""
    if struct is None or (isinstance(struct, type) and issubclass(struct, msgspec.Struct)):
        return None
    cure = "write class Rules(msgspec.Struct) with a field for each rule, and give that class"
    return f"is {struct!r:.100}; expected a class of a Struct: {cure}"


def clashes(declared: Sequence[tuple[str, str, type[msgspec.Struct]]], own: Mapping[str, str]) -> Iterator[Problem]:
    """Yield keys that are declared twice, so that one reader would never get its value.

    `declared` are the rules of plugins, each with the plugin's place and name. `own` names the runner of each container
    key. Plugins of one kind share their rules.
    """
    own = {**own, **dict.fromkeys(keys_of(Container), "every runner")}
    readers: dict[str, tuple[str, type[msgspec.Struct]]] = {}
    for place, name, struct in declared:
        for key in keys_of(struct):
            if key in own:
                text = f"{name} declares the rule {key!r}, which is a key of the containers of {own[key]} already"
                yield Problem(place, f"{text}; give the rule another name in its container_rules")
            reader, other = readers.setdefault(key, (f"{place} ({name})", struct))
            if other is not struct:
                yield Problem(
                    place, f"{name} declares the rule {key!r}, and so does {reader}; one of them has to rename its rule"
                )


def keys_of(struct: type[msgspec.Struct]) -> tuple[str, ...]:
    """Return the keys of the Struct's table."""
    return struct.__struct_encode_fields__


def rules_of(container: Container, struct: type[msgspec.Struct]) -> Mapping[str, Any]:
    """Return the rules of a container that are fields of `struct`."""
    return {key: value for key, value in container.rules.items() if key in keys_of(struct)}


LONGEST_KEY = 100
"""Number of characters of a key that are compared with known ones."""


def nearest(key: str, known: Iterable[str]) -> str:
    """Return ``; did you mean …?``, or an empty text."""
    close = get_close_matches(key[:LONGEST_KEY], list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""
