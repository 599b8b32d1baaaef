"""Types, defaults and signatures as text, however they are written in the source."""

import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Set
from enum import Enum
from typing import Any

from msgspec import Raw

from nodekit import Event


def typed(annotation: Any) -> str:
    if annotation == Event:  # more kinds may come: observers ignore events that they do not know
        return "Event"
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(annotation, str):
        return annotation
    if isinstance(annotation, typing.ForwardRef):
        return annotation.__forward_arg__
    if annotation is None or annotation is type(None):
        return "None"
    if annotation is ...:
        return "..."
    if isinstance(annotation, list):
        return f"[{', '.join(map(typed, annotation))}]"
    if origin is typing.Annotated:
        limits = [str(meta).partition("(")[2].rstrip(")") for meta in arguments[1:]]
        return f"{typed(arguments[0])} ({', '.join(limits)})"
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(typed, arguments))
    if origin is not None and arguments:
        return f"{typed(origin)}[{', '.join(map(typed, arguments))}]"
    return str(getattr(annotation, "__qualname__", None) or getattr(annotation, "__name__", None) or annotation)


def valued(default: Any) -> str:
    """Return the text of a default or of a constant."""
    if isinstance(default, Enum):
        return f"{type(default).__name__}.{default.name}"
    if isinstance(default, Set):
        return f"{{{', '.join(sorted(map(valued, default)))}}}"
    if isinstance(default, Mapping):
        return f"{{{', '.join(f'{valued(key)}: {valued(value)}' for key, value in default.items())}}}"
    if inspect.isroutine(default) or isinstance(default, type):
        return str(default.__qualname__)
    if isinstance(default, Raw):
        return f"Raw({bytes(default)!r})"
    text = repr(default)
    return f"<{type(default).__name__}>" if " at 0x" in text else text


def signed(function: Callable[..., Any], *, bound: bool = False) -> str:
    """`async (request: JobRequest, *, limit: int = 10) -> Job`; bound: without its first parameter."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return "(…)"
    parameters = ", ".join(_parameters(list(signature.parameters.values())[bound:]))
    gives = "" if signature.return_annotation is signature.empty else f" -> {typed(signature.return_annotation)}"
    return f"{'async ' * inspect.iscoroutinefunction(function)}({parameters}){gives}"


def _parameters(parameters: list[inspect.Parameter]) -> Iterator[str]:
    kind = inspect.Parameter.POSITIONAL_ONLY
    for one in parameters:
        if kind is one.POSITIONAL_ONLY and one.kind is not kind and one is not parameters[0]:
            yield "/"
        if one.kind is one.KEYWORD_ONLY and kind not in (one.KEYWORD_ONLY, one.VAR_POSITIONAL):
            yield "*"
        kind = one.kind
        star = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
        annotation = "" if one.annotation is one.empty else f": {typed(one.annotation)}"
        default = "" if one.default is one.empty else f" = {valued(one.default)}"
        yield f"{star}{one.name}{annotation}{default}"
    if parameters and kind is inspect.Parameter.POSITIONAL_ONLY:
        yield "/"
