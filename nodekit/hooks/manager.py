"""The only module that touches pluggy: plugins in, typed calls out."""

import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pluggy

from nodekit.errors import (
    CompositionError,
    ContainerFailed,
    Forbidden,
    NodekitError,
    Problem,
    Refusal,
    Unauthorized,
    Unavailable,
)
from nodekit.hooks.implementations import is_implementation, plugin_name, plugins_among, problems_of
from nodekit.hooks.specs import HOOKS
from nodekit.hooks.tracing import traced
from nodekit.interfaces.component_calls import said, texts
from nodekit.interfaces.step_call import PiecesChange, StepCall
from nodekit.model.container import ClientId, ContainerOutput, GroupId, Step
from nodekit.model.events import Event, RequestRefused, StoreCall
from nodekit.model.identity import Connection, Identity
from nodekit.model.job import Job, JobRequest
from nodekit.model.limits import ClientLimits
from nodekit.model.payload import check_payload
from nodekit.model.subscription import SubscriptionRequest

if TYPE_CHECKING:
    from nodekit.node.node import Node

logger = logging.getLogger("nodekit.plugins")


class _PluginManager(pluggy.PluginManager):
    """A plugin manager that takes every function named like a hook, as a specification or an implementation.

    No decorator is needed, so none can be forgotten.
    """

    def parse_hookspec_opts(self, module_or_class: object, name: str) -> pluggy.HookspecOpts | None:
        if name not in HOOKS:
            return None
        return pluggy.HookspecOpts(firstresult=False, historic=False, warn_on_impl=None, warn_on_impl_args=None)

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        if not is_implementation(plugin, name):
            return None
        return pluggy.HookimplOpts(
            wrapper=False,
            hookwrapper=False,
            optionalhook=False,
            tryfirst=False,
            trylast=False,
            specname=None,
        )


class Implementation(NamedTuple):
    """A hook implementation: a function and the arguments it takes."""

    plugin: object
    plugin_name: str
    """Name of the plugin in the log."""
    place: str
    """Position of the plugin in the node's arguments, such as ``plugins[1]``."""

    @property
    def named(self) -> str:
        """Name of the plugin in a node's problems."""
        return f"{self.place} ({plugin_name(self.plugin)})"

    function: Callable[..., Any]
    argnames: Sequence[str]


class Hooks:
    """The plugins of one node, called one at a time in the order given. Components that are plugins come last."""

    def __init__(
        self,
        plugins: Sequence[object],
        components: Sequence[tuple[str, object]] = (),
        *,
        node: "Node | None" = None,
        trace: Callable[[], float] | None = None,
    ) -> None:
        """Register the plugins, bound to `node`.

        `components` are the node's components, each with its place, such as ``runners[0]``. Without a node, plugins are
        checked and cannot be called. `trace` is the steady clock that times each call for the log; None: none is
        logged.
        """
        placed = [(f"plugins[{number}]", plugin) for number, plugin in enumerate(plugins)]
        placed += plugins_among(components, plugins)
        plugins = [plugin for _, plugin in placed]
        problems = [Problem(place, text) for place, plugin in placed for text in problems_of(plugin)]
        twice = [at for number, at in enumerate(placed) if at[1] in plugins[:number]]  # equal objects are one to pluggy
        problems += [Problem(place, f"{plugin_name(plugin)} is given twice; give it once") for place, plugin in twice]
        if problems:
            raise CompositionError(problems)
        self._node = node
        self._trace = trace
        self._manager = _PluginManager("nodekit")
        self._manager.add_hookspecs(type("Hooks", (), dict(HOOKS)))
        self._places: dict[str, str] = {}
        for number, (place, plugin) in enumerate(placed):
            name = f"{number}:{plugin_name(plugin)}"
            self._places[name] = place
            self._manager.register(plugin, name=name)
        self._manager.check_pending()
        self._admit = self._implementations("nodekit_admit")
        self._subscription = self._implementations("nodekit_subscription")
        self._step = self._implementations("nodekit_step")
        self._identify = self._implementations("nodekit_identify")
        self._limit = self._implementations("nodekit_limit")
        self._client_limits = self._implementations("nodekit_client_limits")
        self._observe = self._implementations("nodekit_observe")
        self._lifespan = self._implementations("nodekit_lifespan")
        self._runs = self._implementations("nodekit_run")
        self._problem_hooks = self._implementations("nodekit_problems")
        self._observe_store = self._implementations("nodekit_observe_store")
        self._routes = self._implementations("nodekit_routes")

    def _implementations(self, hook: str) -> Sequence[Implementation]:
        caller: pluggy.HookCaller = getattr(self._manager.hook, hook)
        return [  # in the order of registration; pluggy itself calls the last one first
            Implementation(
                one.plugin,
                one.plugin_name,
                self._places[one.plugin_name],
                traced(hook, one.plugin_name, one.function, self._trace) if self._trace else one.function,
                one.argnames,
            )
            for one in caller.get_hookimpls()
        ]

    def _call(self, implementation: Implementation, **arguments: Any) -> Any:
        arguments["node"] = self._node
        return implementation.function(*[arguments[name] for name in implementation.argnames])

    def lifespans(self) -> Iterator[AbstractAsyncContextManager[Any]]:
        """Yield the lifespans of plugins, each created on demand. Raise `NodekitError` if one cannot be entered."""
        for implementation in self._lifespan:
            lifespan = self._call(implementation)
            if not all(hasattr(cast(object, type(lifespan)), name) for name in ("__aenter__", "__aexit__")):
                cure = "decorate it with @asynccontextmanager, and let it yield once"
                text = f"nodekit_lifespan returned {lifespan!r:.200}, which is no async context manager; {cure}"
                raise NodekitError(f"{implementation.named}: {text}")
            yield lifespan

    def runs(self) -> Iterator[Callable[[], Coroutine[Any, Any, None]]]:
        """Yield what plugins run beside the node. Each call raises `NodekitError` if its plugin fails."""
        return (partial(self._run, implementation) for implementation in self._runs)

    async def _run(self, implementation: Implementation) -> None:
        try:
            await self._call(implementation)
        except Exception as error:
            logger.exception("plugin %s failed in nodekit_run; the node ends", implementation.plugin_name)
            raise NodekitError(f"{implementation.named}: nodekit_run failed: {said(error)}") from error

    async def admit(self, request: JobRequest) -> None:
        """Ask every plugin. The first `Refusal` or `Unavailable` wins; a plugin that fails refuses the request."""
        for implementation in self._admit:
            try:
                _nothing(await self._call(implementation, request=request))
            except (Refusal, Unavailable):
                raise
            except Exception as error:
                logger.exception(
                    "plugin %s failed in nodekit_admit; the request is refused", implementation.plugin_name
                )
                raise Refusal("Admission failed") from error

    @property
    def chain_address(self) -> str | None:
        """Address of the node on a chain, as the first plugin that takes subscriptions has it. None: no plugin does."""
        addresses = [getattr(implementation.plugin, "chain_address", "") for implementation in self._subscription]
        return next(iter(addresses), None)

    async def subscribe(self, request: SubscriptionRequest, identity: Identity) -> None:
        """Ask plugins until one takes the subscription. Raise its `Refusal` or `Unavailable`; one that fails refuses.

        Raise the `Refusal` ``Chain not enabled`` if none takes it.
        """
        for implementation in self._subscription:
            try:
                taken: object = await self._call(implementation, request=request, identity=identity)
                if not isinstance(taken, bool):
                    raise TypeError(f"it answered {taken!r:.200}; return True once the subscription is kept, or False")
            except (Refusal, Unavailable):
                raise
            except Exception as error:
                name = implementation.plugin_name
                logger.exception("plugin %s failed in nodekit_subscription; the subscription is refused", name)
                raise Refusal("Admission failed") from error
            if taken:
                return
        raise Refusal("Chain not enabled")

    @property
    def step(self) -> "Callable[[Step, Job, StepCall], Awaitable[ContainerOutput]] | None":
        """Runs an attempt of a step through every plugin. None if there is none, so that it costs nothing."""
        return self._run_step if self._step else None

    async def _run_step(self, step: Step, job: Job, call: StepCall) -> ContainerOutput:
        return await _NestedCall(self, self._step, job, call, None)(step)

    async def call_around(self, plugin: Implementation, step: Step, job: Job, call: "_NestedCall") -> ContainerOutput:
        """Ask one plugin to run an attempt. Raise `ContainerFailed`; a plugin that fails is one, of kind internal."""
        try:
            output: object = await self._call(plugin, step=step, job=job, call=call)
            if not isinstance(output, ContainerOutput) or output.container != step.container:
                raise TypeError(f"it answered {output!r:.200}; expected a ContainerOutput of {step.container!r}")
            if output is not call.output:
                await check_payload(output.output)
            return output
        except ContainerFailed:
            raise
        except Exception as error:
            logger.exception("job %s: plugin %s failed in nodekit_step", job.id, plugin.plugin_name)
            raise ContainerFailed("internal", "internal error of the node") from error

    @property
    def identifies(self) -> bool:
        """True if any plugin says who sends a request."""
        return bool(self._identify)

    async def identify(self, connection: Connection) -> Identity | None:
        """Ask plugins until one answers. Raise its `Unauthorized` or `Forbidden`; one that fails lets nobody in."""
        for implementation in self._identify:
            try:
                identity: object = await self._call(implementation, connection=connection)
                if identity is not None and not isinstance(identity, Identity):
                    raise TypeError(f"it answered {identity!r:.200}; expected an Identity or None")
            except (Unauthorized, Forbidden):
                raise
            except Exception as error:
                name = plugin_name(implementation.plugin)
                logger.exception("plugin %s failed in nodekit_identify; the request fails", implementation.plugin_name)
                raise NodekitError(f"plugin {name} failed to say who sends the request") from error
            if identity is not None:
                return identity
        return None

    def limit(self, identity: Identity) -> None:
        """Ask every plugin. The first `Unavailable` wins; a plugin that fails lets no request through."""
        for implementation in self._limit:
            try:
                _nothing(self._call(implementation, identity=identity))
            except Unavailable as objection:
                if self.observed:
                    self.observe(RequestRefused(identity.client, objection))
                raise
            except Exception as error:
                name = plugin_name(implementation.plugin)
                logger.exception("plugin %s failed in nodekit_limit; the request fails", implementation.plugin_name)
                raise NodekitError(f"plugin {name} failed to decide if the client sends too many requests") from error

    @property
    def client_limits(self) -> "Callable[[ClientId, GroupId], ClientLimits | None] | None":
        """Returns the limits that plugins know of a client. None if no plugin knows any, so that it costs nothing."""
        return self._limits_of if self._client_limits else None

    def _limits_of(self, client: ClientId, group: GroupId) -> ClientLimits | None:
        """Ask plugins until one answers. Raise `Refusal` if one fails: a request is not let in without its limits."""
        for implementation in self._client_limits:
            try:
                limits: object = self._call(implementation, client=client, group=group)
                if limits is not None and not isinstance(limits, ClientLimits):
                    raise TypeError(f"it answered {limits!r:.200}; expected ClientLimits or None")
            except Exception as error:
                logger.exception(
                    "plugin %s failed in nodekit_client_limits; the request is refused", implementation.plugin_name
                )
                raise Refusal("Admission failed") from error
            if limits is not None:
                return limits
        return None

    @property
    def observed(self) -> bool:
        """True if any plugin observes events; otherwise they need not be made."""
        return bool(self._observe)

    def observe(self, event: Event) -> None:
        """Emit an event to every plugin. An exception there is logged and affects nothing else."""
        for implementation in self._observe:
            try:
                self._call(implementation, event=event)
            except Exception:
                logger.exception("plugin %s failed in nodekit_observe", implementation.plugin_name)

    @property
    def store_observed(self) -> bool:
        """True if any plugin observes the store's calls; otherwise they need not be measured."""
        return bool(self._observe_store)

    def observe_store(self, call: StoreCall) -> None:
        """Emit a store call to every plugin, as `observe` does."""
        for implementation in self._observe_store:
            try:
                self._call(implementation, call=call)
            except Exception:
                logger.exception("plugin %s failed in nodekit_observe_store", implementation.plugin_name)

    def routes(self) -> Iterator[tuple[str, str, Any]]:
        """Yield each plugin's place and name, with the mounts that it returned or the error that it raised."""
        for implementation in self._routes:
            try:
                answer = self._call(implementation)
            except Exception as error:
                logger.exception("plugin %s failed in nodekit_routes", implementation.plugin_name)
                answer = error
            yield implementation.place, plugin_name(implementation.plugin), answer

    def problems(self) -> Iterator[str]:
        """Yield the problems that plugins report right now. A plugin that fails to report is a problem itself."""
        for implementation in self._problem_hooks:
            try:
                problems = texts(self._call(implementation))
            except (KeyboardInterrupt, GeneratorExit):
                raise
            except BaseException:  # nothing can cancel this call: the error is the plugin's own
                logger.exception("plugin %s failed in nodekit_problems", implementation.plugin_name)
                problems = [f"{implementation.named} failed to say what is wrong; the log has it"]
            yield from problems


class _NestedCall:
    """The `call` that runs a step through the plugins that are left, and in the end calls the container."""

    def __init__(
        self, hooks: Hooks, left: Sequence[Implementation], job: Job, call: StepCall, pieces: PiecesChange | None
    ) -> None:
        self._hooks = hooks
        self._left = left
        self._job = job
        self._call = call
        self._pieces = pieces
        """The change of pieces by the plugins outside."""
        self.output: ContainerOutput | None = None
        """The output, once there is one."""

    async def __call__(self, step: Step, *, pieces: PiecesChange | None = None) -> ContainerOutput:
        pieces = _both(pieces, self._pieces)
        if not self._left:
            self.output = await self._call(step, pieces=pieces)
        else:
            first, *left = self._left
            inner = _NestedCall(self._hooks, left, self._job, self._call, pieces)
            self.output = await self._hooks.call_around(first, step, self._job, inner)
        return self.output


def _both(first: PiecesChange | None, then: PiecesChange | None) -> PiecesChange | None:
    if first is None or then is None:
        return first or then
    return lambda pieces: then(first(pieces))


def _nothing(answer: object) -> None:
    """Raise `TypeError` for any answer but None: a guard with a forgotten `raise` would admit every request."""
    if answer is not None:
        raise TypeError(
            f"it returned {answer!r:.200}; return None to let the request in, or object by raising: raise Refusal(…)"
        )
