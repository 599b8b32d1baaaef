"""Check of components against their Protocols, when a node is composed. The Protocol itself is the specification.

Types are left to type checkers. This check finds calls that could not begin, and results that could not be awaited.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

from nodekit.errors import Problem

_DUNDERS = ("__aenter__", "__aexit__")
_KEYWORDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Member(NamedTuple):
    """A member that a Protocol requires."""

    name: str
    protocol: type
    spec: Callable[..., Any] | None
    """The function in the Protocol, or None for an attribute."""

    @property
    def parameters(self) -> tuple[inspect.Parameter, ...]:
        """Parameters of a call, without `self`."""
        return _parameters_of(self.spec) if self.spec else ()

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.spec)

    def written(self) -> str:
        """Return the definition to write, without types."""
        if self.spec is None:
            return f"an attribute or property {self.name}"
        bare = [p.replace(annotation=p.empty) for p in inspect.signature(self.spec).parameters.values()]
        return f"{'async ' * self.is_async}def {self.name}{inspect.Signature(bare)}"


@cache
def members(protocol: type) -> tuple[Member, ...]:
    """Return the members that a Protocol requires, inherited ones included."""
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
    """Return optional members: those that extensions of this Protocol, or of one it extends, add in its module.

    A module may have another one beside it for them, named ``…_abilities``.
    """
    bases: list[type] = [base for base in protocol.__mro__ if _is_protocol(base)]
    beside = [kind for base in bases for kind in _protocols_on(base) if _is_beside(kind, base)]
    asked = (member for other in beside for member in members(other) if member.name not in _DUNDERS)
    return tuple(member for member in asked if member.protocol not in protocol.__mro__)


def _protocols_on(base: type) -> list[type]:
    subclasses: list[type] = base.__subclasses__()
    return [kind for kind in subclasses if _is_protocol(kind)]


def _is_beside(kind: type, base: type) -> bool:
    return kind.__module__.removesuffix("_abilities") == base.__module__


def _is_protocol(kind: type) -> bool:
    return bool(getattr(kind, "_is_protocol", False))


def shape_problems(where: str, component: object, protocol: type) -> Iterator[Problem]:
    """Yield what would break a node's calls.

    These are missing members, sync members that must be async (or the reverse), and missing parameters.
    """
    if inspect.isclass(component):
        yield Problem(where, f"is a class; give the node an instance: {component.__name__}()")
        return
    named = type(component).__name__
    for member in members(protocol):
        if not _has(component, member.name):
            lacks = f"{named} is not a {protocol.__name__}: it has no `{member.name}`; write: {member.written()}"
            yield Problem(where, lacks)
        elif text := _wrong(component, member):
            yield Problem(where, f"{named}.{text}")
    for member in optional_members(protocol):
        if _has(component, member.name) and (text := _wrong(component, member)):
            yield Problem(where, f"{named}.{text} (of {member.protocol.__name__}), or give it another name")


def _has(component: object, name: str) -> bool:
    if name in _DUNDERS:  # Python looks them up on the class alone
        return hasattr(type(component), name)
    missing = object()
    return inspect.getattr_static(component, name, missing) is not missing or hasattr(component, name)


def _wrong(component: object, member: Member) -> str | None:
    if member.spec is None:
        return None
    method = getattr(component, member.name)
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
    """Return True if a call may return an awaitable.

    A plain function may not, unless its annotation says so or it wraps a function that does.
    """
    inner = inspect.unwrap(method)
    if inspect.iscoroutinefunction(method) or inspect.iscoroutinefunction(inner):
        return True
    if not (inspect.isfunction(inner) or inspect.ismethod(inner)) or _passes_on(inner):
        return True  # compiled, or another callable: unknown before the call
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        return False
    says = str(getattr(inner, "__annotations__", {}).get("return", ""))
    return any(word in says for word in ("Awaitable", "Coroutine", "Future", "Task", "Any"))


def _passes_on(function: Any) -> bool:
    """Return True if the function takes anything, as a decorator's wrapper does, and is not a generator."""
    taken = _parameters(function)
    anything = [inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD]
    flags = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
    return not flags and taken is not None and [parameter.kind for parameter in taken] == anything


@cache
def _parameters_of(spec: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    """Return the parameters of a Protocol's method, without self."""
    return tuple(inspect.signature(spec).parameters.values())[1:]


def _parameters(method: Any) -> list[inspect.Parameter] | None:
    """Return the parameters, or None if the signature is unknown."""
    try:
        return list(inspect.signature(method).parameters.values())
    except (TypeError, ValueError):
        return None


def _not_taken(method: Any, member: Member) -> list[str]:
    """Return the names of arguments that the node passes and the method does not take."""
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
    """Return an argument that the method requires and that the node does not always pass, or None."""
    taken = [p for p in _parameters(method) or [] if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    required = [p for p in member.parameters if p.default is p.empty]
    places = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in required)
    names = {p.name for p in required if p.kind is p.KEYWORD_ONLY}
    by_place = [p for p in taken if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    by_name = [p for p in taken if p.kind is p.KEYWORD_ONLY]
    left: Sequence[inspect.Parameter] = [*by_place[places:], *by_name]
    return next((p.name for p in left if p.default is p.empty and p.name not in names), None)
