"""Plugins as objects: their names, their implementations of hooks, and mistakes in these."""

import inspect
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from types import ModuleType
from typing import Any

from nodekit.hooks.specs import HOOKS, hook_parameters

PREFIX = "nodekit_"
_MARKER = f"{PREFIX}impl"  # what pluggy.HookimplMarker("nodekit") leaves on a function


def plugin_name(plugin: object) -> str:
    """Return the name of a plugin in errors and in the log."""
    return plugin.__name__ if isinstance(plugin, ModuleType) else type(plugin).__name__


def plugins_among(components: Sequence[tuple[str, object]], plugins: Sequence[object]) -> Sequence[tuple[str, object]]:
    """Return the components that implement hooks, each once, without those that are also given as plugins."""
    found: list[tuple[str, object]] = []
    for place, component in components:
        if _named(component) and not any(component is other for other in (*plugins, *(other for _, other in found))):
            found.append((place, component))
    return found


def _named(plugin: object) -> list[str]:
    """Return the names of attributes named like a hook, except imported modules. A hook set to None is left out."""
    names = [name for name in dir(plugin) if name.startswith(PREFIX)]
    return [name for name in names if callable(value := getattr(plugin, name)) or (name in HOOKS and value is not None)]


def is_implementation(plugin: object, name: str) -> bool:
    return name.startswith(PREFIX) and inspect.isroutine(getattr(plugin, name, None))


def problems_of(plugin: object) -> Iterator[str]:
    """Yield mistakes in the hooks of a plugin."""
    if inspect.isclass(plugin):
        yield f"{plugin.__name__} is a class; give the node an instance: {plugin.__name__}()"
        return
    named = _named(plugin)
    for name in named:
        if text := _problem(name, getattr(plugin, name)):
            yield f"{plugin_name(plugin)}.{name}: {text}"
    if not named and not hasattr(plugin, "container_rules"):
        yield f"{plugin_name(plugin)} implements no hook; known: {', '.join(sorted(HOOKS))}"


def _problem(name: str, function: Any) -> str | None:
    spec = HOOKS.get(name)
    if spec is None:
        nearest = get_close_matches(name, HOOKS, 1)
        return "no such hook; " + (f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(sorted(HOOKS))}")
    if not inspect.isroutine(function):
        return "must be a function or a method"
    if hasattr(function, _MARKER):
        return "takes no pluggy marker: plugins run in the order in which the node is given them"
    known = hook_parameters(name)
    taken = inspect.signature(function).parameters.values()
    if defaulted := [p.name for p in taken if p.default is not p.empty]:
        return f"argument {defaulted[0]!r} has a default and would never be passed; remove the default"
    if wrong := [p.name for p in taken if p.name not in known or p.kind is not p.POSITIONAL_OR_KEYWORD]:
        return f"unknown argument {wrong[0]!r}; it may take: {', '.join(known)}"
    if inspect.iscoroutinefunction(spec) and not inspect.iscoroutinefunction(function):
        return f"must be a coroutine function: async def {name}(…)"
    if not inspect.iscoroutinefunction(spec) and (
        inspect.iscoroutinefunction(function)
        or inspect.isasyncgenfunction(function)
        or inspect.isgeneratorfunction(function)
    ):
        cure = " decorated with @asynccontextmanager" if name == "nodekit_lifespan" else ""
        return f"must be a plain function{cure}: def {name}(…)"
    return None
