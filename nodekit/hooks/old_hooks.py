"""Hooks, and arguments of hooks, that have another name by now: plugins that know the old one keep working."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from nodekit._deprecated import HOOK_ARGUMENTS, HOOKS, plugin_of


def hook_now(name: str) -> str:
    """The name that a hook has by now."""
    known = HOOKS.get(name)
    return name if known is None or known.now is None else known.now


def is_overruled(plugin: object, name: str) -> bool:
    """Whether it is an old name, and the plugin has the new one too: only that one is asked."""
    known = HOOKS.get(name)
    return known is not None and known.now is not None and hasattr(plugin, known.now)


def arguments_now(hook: str, names: Sequence[str]) -> tuple[str, ...]:
    """The names by which the node gives a hook's arguments to an implementation that has these."""
    known = [HOOK_ARGUMENTS.get((hook, name)) for name in names]
    return tuple((old.now or name) if old else name for name, old in zip(names, known, strict=True))


def old_arguments(hook: str) -> list[str]:
    """Those that a hook still takes beside its own."""
    return [argument for (name, argument), known in HOOK_ARGUMENTS.items() if name == hook and not known.gone]


def gone(name: str, function: Any) -> str | None:
    """What to tell where a hook, or an argument that a function takes, is not there any more."""
    if (known := HOOKS.get(name)) and known.gone:
        return known.told_gone()
    for argument in inspect.signature(function).parameters:
        if (old := HOOK_ARGUMENTS.get((hook_now(name), argument))) and old.gone:
            return f"its argument {argument!r} {old.told_gone()}"
    return None


def warnings_of(plugin: object, implementations: Sequence[str]) -> Iterator[str]:
    """What of its implementations will not work for ever."""
    for name in implementations:
        if is_overruled(plugin, name):
            continue
        if known := HOOKS.get(name):
            yield known.told(f"{plugin_of(plugin)} implements {name}")
        for argument in inspect.signature(getattr(plugin, name)).parameters:
            if old := HOOK_ARGUMENTS.get((hook_now(name), argument)):
                yield old.told(f"{plugin_of(plugin)}.{name} takes {argument!r}")
