"""Whether a part has what its Protocol asks for, looked up in the Protocol itself, when a node is composed.

Types are for type checkers; here it is that a call would not even begin, or would give what nobody can await.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

from nodekit.errors import Problem

_DUNDERS = ("__aenter__", "__aexit__")
_KEYWORDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Member(NamedTuple):
    """Something that a Protocol asks for."""

    name: str
    protocol: type
    spec: Callable[..., Any] | None
    """None: an attribute."""

    @property
    def parameters(self) -> list[inspect.Parameter]:
        """Those of a call."""
        return list(inspect.signature(self.spec).parameters.values())[1:] if self.spec else []

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.spec)

    def written(self) -> str:
        """As it is to be defined, without types."""
        if self.spec is None:
            return f"an attribute or property {self.name}"
        bare = [p.replace(annotation=p.empty) for p in inspect.signature(self.spec).parameters.values()]
        return f"{'async ' * self.is_async}def {self.name}{inspect.Signature(bare)}"


@cache
def members(protocol: type) -> tuple[Member, ...]:
    """What a Protocol asks for, with what those that it extends do."""
    found: dict[str, Member] = {}
    for base in protocol.__mro__:
        if _is_protocol(base):
            for name, value in vars(base).items():
                if name in _DUNDERS or (not name.startswith("_") and isinstance(value, property)):
                    found.setdefault(name, Member(name, base, None if isinstance(value, property) else value))
                elif not name.startswith("_") and inspect.isfunction(value):
                    found.setdefault(name, Member(name, base, value))
    return tuple(found.values())


@cache
def optional_members(protocol: type) -> tuple[Member, ...]:
    """What a part may have beside it: what the Protocols add that nodekit makes of this one."""
    subclasses: list[type] = protocol.__subclasses__()
    beside = [other for other in subclasses if other.__module__ == protocol.__module__ and _is_protocol(other)]
    asked = (member for other in beside for member in members(other) if member.name not in _DUNDERS)
    return tuple(member for member in asked if member.protocol not in protocol.__mro__)


def _is_protocol(kind: type) -> bool:
    return bool(getattr(kind, "_is_protocol", False))


def shape_problems(where: str, part: object, protocol: type) -> Iterator[Problem]:
    """What a node could not call as it will: what is missing, of the wrong colour, or does not take what is passed."""
    if inspect.isclass(part):
        yield Problem(where, f"is a class; give the node an instance: {part.__name__}()")
        return
    named = type(part).__name__
    for member in members(protocol):
        if not _has(part, member.name):
            lacks = f"{named} is not a {protocol.__name__}: it has no `{member.name}`; write: {member.written()}"
            yield Problem(where, lacks)
        elif text := _wrong(part, member):
            yield Problem(where, f"{named}.{text}")
    for member in optional_members(protocol):
        if _has(part, member.name) and (text := _wrong(part, member)):
            yield Problem(where, f"{named}.{text} (of {member.protocol.__name__}), or give it another name")


def _has(part: object, name: str) -> bool:
    if name in _DUNDERS:  # Python looks for them on the class alone
        return hasattr(type(part), name)
    missing = object()
    return inspect.getattr_static(part, name, missing) is not missing or hasattr(part, name)


def _wrong(part: object, member: Member) -> str | None:
    if member.spec is None:
        return None
    method = getattr(part, member.name)
    if not callable(method):
        return f"{member.name} is not a method; write: {member.written()}"
    if member.is_async and not _may_be_awaited(method):
        return f"{member.name} is not async, and its answer is awaited; write: {member.written()}"
    if not member.is_async and inspect.isasyncgenfunction(method):
        return f"{member.name} is a generator; decorate it with @asynccontextmanager"
    if not member.is_async and inspect.iscoroutinefunction(method):
        return f"{member.name} is async, and nobody awaits its answer; write: {member.written()}"
    if lacking := _not_taken(method, member):
        names = ", ".join(f"`{name}`" for name in lacking)
        return f"{member.name} does not take {names}; write: {member.written()}"
    if surplus := _surplus(method, member):
        return f"{member.name} needs `{surplus}`, which it is not always given; give it a default, or remove it"
    return None


def _may_be_awaited(method: Any) -> bool:
    """Not a plain function, unless it says that it gives something to await, or stands for a function that does."""
    inner = inspect.unwrap(method)
    if inspect.iscoroutinefunction(method) or inspect.iscoroutinefunction(inner):
        return True
    if not (inspect.isfunction(inner) or inspect.ismethod(inner)) or _passes_on(inner):
        return True  # compiled, or any other callable: nobody knows before it is called
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        return False
    says = str(getattr(inner, "__annotations__", {}).get("return", ""))
    return any(word in says for word in ("Awaitable", "Coroutine", "Future", "Task", "Any"))


def _passes_on(function: Any) -> bool:
    """Whether it takes anything, as what a decorator puts in a function's place does, and is not a generator."""
    taken = _parameters(function)
    anything = [inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD]
    flags = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
    return not flags and taken is not None and [parameter.kind for parameter in taken] == anything


def _parameters(method: Any) -> list[inspect.Parameter] | None:
    """None: it does not say."""
    try:
        return list(inspect.signature(method).parameters.values())
    except (TypeError, ValueError):
        return None


def _not_taken(method: Any, member: Member) -> list[str]:
    """Return the names of arguments that the node passes and the method has no room for."""
    taken = _parameters(method)
    if taken is None:
        return []
    kinds = {parameter.kind for parameter in taken}
    by_place = [p.name for p in member.parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    by_name = [p.name for p in member.parameters if p.kind is p.KEYWORD_ONLY]
    room = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in taken)
    over = [] if inspect.Parameter.VAR_POSITIONAL in kinds else by_place[room:]
    names = {p.name for p in taken if p.kind in _KEYWORDS}
    return over + [n for n in by_name if inspect.Parameter.VAR_KEYWORD not in kinds and n not in names]


def _surplus(method: Any, member: Member) -> str | None:
    """An argument without which the method cannot be called, and with which the node does not always call it."""
    taken = [p for p in _parameters(method) or [] if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    required = [p for p in member.parameters if p.default is p.empty]
    places = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in required)
    names = {p.name for p in required if p.kind is p.KEYWORD_ONLY}
    by_place = [p for p in taken if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    by_name = [p for p in taken if p.kind is p.KEYWORD_ONLY]
    left: Sequence[inspect.Parameter] = [*by_place[places:], *by_name]
    return next((p.name for p in left if p.default is p.empty and p.name not in names), None)
