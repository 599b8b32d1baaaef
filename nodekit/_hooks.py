"""The only module that touches pluggy: plugins in, typed calls out."""

import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from difflib import get_close_matches
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from nodekit import hookspecs
from nodekit.container import ClientId
from nodekit.errors import CompositionError, NodekitError, Problem, Refusal, Unavailable
from nodekit.events import Event
from nodekit.job import JobRequest

if TYPE_CHECKING:
    from nodekit.node import Node

logger = logging.getLogger("nodekit.plugins")

_PREFIX = "nodekit_"
_MARKER = f"{_PREFIX}impl"  # what pluggy.HookimplMarker("nodekit") leaves on a function
_SPECS = {name: spec for name, spec in vars(hookspecs).items() if name.startswith(_PREFIX)}


class _PluginManager(pluggy.PluginManager):
    """Every callable named like a hook is an implementation; no decorator needed, so none can be forgotten."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        if not _is_implementation(plugin, name):
            return None
        return pluggy.HookimplOpts(
            wrapper=False, hookwrapper=False, optionalhook=False, tryfirst=False, trylast=False, specname=None
        )

    def parse_hookspec_opts(self, module_or_class: object, name: str) -> pluggy.HookspecOpts | None:
        if name not in _SPECS:
            return None
        return pluggy.HookspecOpts(firstresult=False, historic=False, warn_on_impl=None, warn_on_impl_args=None)


class Hooks:
    """The plugins of one node, called one at a time in the order given; parts that are plugins come last."""

    def __init__(self, plugins: Sequence[object], parts: Sequence[object] = ()) -> None:
        plugins = [*plugins, *_plugins_among(parts, plugins)]
        problems = [problem for plugin in plugins for problem in _problems(plugin)]
        twice = [p for number, p in enumerate(plugins) if p in plugins[:number]]  # pluggy takes equal ones for one
        problems += [Problem(plugin_name(plugin), "is given twice; give it once") for plugin in twice]
        if problems:
            raise CompositionError(problems)
        self._manager = _PluginManager("nodekit")
        self._manager.add_hookspecs(hookspecs)
        for number, plugin in enumerate(plugins):
            self._manager.register(plugin, name=f"{number}:{plugin_name(plugin)}")
        self._admit = self._implementations("nodekit_admit")
        self._limit = self._implementations("nodekit_limit")
        self._observe = self._implementations("nodekit_observe")
        self._lifespan = self._implementations("nodekit_lifespan")
        self._tell_problems = self._implementations("nodekit_problems")

    def _implementations(self, hook: str) -> Sequence[pluggy.HookImpl]:
        caller: pluggy.HookCaller = getattr(self._manager.hook, hook)
        return caller.get_hookimpls()  # in the order of registration; pluggy would call them last first

    def lifespans(self, node: "Node") -> Iterator[AbstractAsyncContextManager[Any]]:
        """What each plugin wants held open, made when asked for."""
        for implementation in self._lifespan:
            yield _call(implementation, node=node)

    async def admit(self, request: JobRequest, node: "Node") -> None:
        """Ask every plugin; the first `Refusal` or `Unavailable` wins, and a plugin that breaks refuses."""
        for implementation in self._admit:
            try:
                await _call(implementation, request=request, node=node)
            except (Refusal, Unavailable):
                raise
            except Exception as error:
                logger.exception(
                    "plugin %s failed in nodekit_admit; the request is refused", implementation.plugin_name
                )
                raise Refusal("Admission failed") from error

    def limit(self, client: ClientId, node: "Node") -> None:
        """Ask every plugin; the first `Unavailable` wins, and one that breaks lets nobody through."""
        for implementation in self._limit:
            try:
                _call(implementation, client=client, node=node)
            except Unavailable:
                raise
            except Exception as error:
                name = plugin_name(implementation.plugin)
                logger.exception("plugin %s failed in nodekit_limit; the request fails", implementation.plugin_name)
                raise NodekitError(f"plugin {name} failed to say whether the client asks too often") from error

    @property
    def observed(self) -> bool:
        """Whether any plugin listens: events need not be made otherwise."""
        return bool(self._observe)

    def observe(self, event: Event, node: "Node") -> None:
        """Tell every plugin; what goes wrong there is logged and harms nobody."""
        for implementation in self._observe:
            try:
                _call(implementation, event=event, node=node)
            except Exception:
                logger.exception("plugin %s failed in nodekit_observe", implementation.plugin_name)

    def problems(self, node: "Node") -> Iterator[str]:
        """What plugins say is wrong right now; one that cannot say is wrong itself."""
        for implementation in self._tell_problems:
            try:
                yield from _texts(_call(implementation, node=node))
            except Exception:
                logger.exception("plugin %s failed in nodekit_problems", implementation.plugin_name)
                yield f"plugin {plugin_name(implementation.plugin)} failed to say what is wrong; the log has it"


def plugin_name(plugin: object) -> str:
    """How errors and the log name a plugin."""
    return plugin.__name__ if isinstance(plugin, ModuleType) else type(plugin).__name__


def _call(implementation: pluggy.HookImpl, **arguments: Any) -> Any:
    return implementation.function(*[arguments[name] for name in implementation.argnames])


def _texts(told: Any) -> list[str]:
    """One text is one problem, not as many as it has letters; None is none."""
    return [told] if isinstance(told, str) and told else [str(problem) for problem in told or ()]


def _plugins_among(parts: Sequence[object], plugins: Sequence[object]) -> Sequence[object]:
    """The parts that implement hooks, each once; one that is given as a plugin has its place there."""
    found: list[object] = []
    for part in parts:
        if _named(part) and not any(part is other for other in (*plugins, *found)):
            found.append(part)
    return found


def _named(plugin: object) -> list[str]:
    """What on it is named like a hook."""
    return [name for name in dir(plugin) if name.startswith(_PREFIX) and callable(getattr(plugin, name))]


def _is_implementation(plugin: object, name: str) -> bool:
    return name.startswith(_PREFIX) and inspect.isroutine(getattr(plugin, name, None))


def _problems(plugin: object) -> Iterator[Problem]:
    if inspect.isclass(plugin):
        yield Problem(plugin.__name__, f"is a class; give the node an instance: {plugin.__name__}()")
        return
    named = _named(plugin)
    for name in named:
        if text := _problem(name, getattr(plugin, name)):
            yield Problem(f"{plugin_name(plugin)}.{name}", text)
    if not named and not hasattr(plugin, "container_rules"):
        yield Problem(plugin_name(plugin), f"implements no hook; known: {', '.join(sorted(_SPECS))}")


def _problem(name: str, function: Any) -> str | None:
    spec = _SPECS.get(name)
    if spec is None:
        nearest = get_close_matches(name, _SPECS, 1)
        return "no such hook; " + (f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(sorted(_SPECS))}")
    if not inspect.isroutine(function):
        return "must be a function or a method"
    if hasattr(function, _MARKER):
        return "takes no pluggy marker: plugins run in the order in which the node is given them"
    known = list(inspect.signature(spec).parameters)
    taken = inspect.signature(function).parameters.values()
    if defaulted := [p.name for p in taken if p.default is not p.empty]:
        return f"argument {defaulted[0]!r} has a default and would never be given; remove the default"
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
