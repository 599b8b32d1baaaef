"""The mounts of all plugins in one table. An invalid mount is reported with the cure."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

from nodekit.errors import CompositionError, Problem
from nodekit.hooks.mounts import Mount

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def mounted(answers: Iterable[tuple[str, str, Any]]) -> Mapping[str, Mount]:
    """Return the mounts by name.

    `answers` has each plugin's place and name, and the answer of its `nodekit_routes` or the error it raised. Raise
    `CompositionError` if a mount is invalid.
    """
    table: dict[str, Mount] = {}
    owners: dict[str, str] = {}
    problems: list[Problem] = []
    for place, plugin, answer in answers:
        if text := _wrong(answer):
            problems.append(Problem(place, f"{plugin}.nodekit_routes: {text}"))
            continue
        for mount in cast(Sequence[Mount], answer):
            if text := "; ".join(_unfit(mount, owners)):
                problems.append(Problem(place, f"{plugin}.nodekit_routes: {text}"))
            else:
                table[mount.name], owners[mount.name] = mount, f"{place} ({plugin})"
    if problems:
        raise CompositionError(problems)
    return MappingProxyType(table)


def _wrong(answer: Any) -> str | None:
    if isinstance(answer, Exception):
        return f"failed: {type(answer).__name__}: {answer}; a node is not composed without the pages of its plugins"
    if isinstance(answer, Mount):
        return "returned a Mount; return a list: [Mount(…)]"
    if not isinstance(answer, Sequence) or isinstance(answer, str | bytes):
        return f"returned {type(answer).__name__}; return a list of Mounts, an empty one for none"  # pyright: ignore[reportUnknownArgumentType]
    others: list[Any] = [item for item in answer if not isinstance(item, Mount)]  # pyright: ignore[reportUnknownVariableType]
    return f"returned a list with {type(others[0]).__name__} in it; expected Mount(name, app)" if others else None


def _unfit(mount: Mount, owners: Mapping[str, str]) -> Iterator[str]:
    # Structs made in Python do not check themselves
    name: Any = mount.name
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        yield f"name {name!r}: expected lower-case letters and digits, with single '-' between them"
    elif name in owners:
        yield f"name {name!r} is mounted by {owners[name]} already; choose another"
    if not callable(mount.app):
        yield f"app of {name!r}: expected an ASGI application, a callable of scope, receive and send"
    if mount.public not in (True, False):
        yield f"public of {name!r}: expected True or False"
