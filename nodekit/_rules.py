"""Rules of containers: settings that a container carries and a plugin reads.

A plugin declares them by an attribute `container_rules`, a `msgspec.Struct` class whose fields are the keys.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import msgspec

from nodekit.container import Container
from nodekit.errors import Problem


def declared_rules(plugin: object) -> type[msgspec.Struct] | None:
    """The rules that a plugin reads, if it reads any."""
    return getattr(plugin, "container_rules", None)


def declared_twice(plugin: object, offered: type[msgspec.Struct] | None) -> str | None:
    """What is wrong where a plugin and its offer do not declare the same rules: some would be read by nobody."""
    declared = declared_rules(plugin)
    if declared is offered:
        return None
    name = type(plugin).__name__
    if declared is None:
        cure = f"give the class container_rules = {getattr(offered, '__name__', offered)}"
        return f"its offer declares rules of containers that {name} does not; {cure}"
    cure = f"write Offer(…, container={declared.__name__})"
    return f"{name} declares rules of containers that its offer does not; {cure}"


def rule_problems(containers: Iterable[Container], plugins: Sequence[object]) -> Iterator[Problem]:
    """Rules that no plugin reads, or that the one that reads them does not accept. Unread rules guard nothing."""
    structs = [struct for plugin in plugins if (struct := declared_rules(plugin))]
    known = {field: struct for struct in structs for field in struct.__struct_fields__}
    for container in containers:
        for key in container.rules:
            if key not in known:
                cure = nearest(key, known) or "; a plugin says what it reads by its attribute `container_rules`"
                yield Problem(f"container {container.id!r}, rule {key!r}", f"no plugin reads it{cure}")
        for struct in structs:
            try:
                msgspec.convert(rules_of(container, struct), struct)
            except msgspec.ValidationError as error:
                yield Problem(f"container {container.id!r}", str(error))


def rules_of(container: Container, struct: type[msgspec.Struct]) -> Mapping[str, Any]:
    """Those rules of a container that are fields of `struct`."""
    return {key: value for key, value in container.rules.items() if key in struct.__struct_fields__}


def nearest(key: str, known: Iterable[str]) -> str:
    """`; did you mean …?`, or nothing."""
    close = get_close_matches(key, list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""
