"""The hooks of nodekit. A plugin is any object with methods (or a module with functions) of these names.

A hook is either sync or async, as it is defined here: an implementation must use `async def` or plain `def` to match.
It takes any subset of the hook's arguments, by name. The node calls plugins in the order in which they were given,
then the store, the runners and the transports that have such methods.

Each hook is the method of a Protocol. A plugin may inherit from it: ``class Bouncer(Admits)``. A type checker then sees
a wrong name, argument or answer, and the implementation takes all of the hook's arguments.
"""

import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol

from nodekit.hooks.mounts import Mount
from nodekit.interfaces.step_call import StepCall
from nodekit.model.container import ClientId, ContainerOutput, GroupId, Step
from nodekit.model.events import Event, StoreCall
from nodekit.model.identity import Connection, Identity
from nodekit.model.job import Job, JobRequest
from nodekit.model.limits import ClientLimits
from nodekit.model.subscription import SubscriptionRequest

if TYPE_CHECKING:
    from nodekit.node.node import Node


class HasLifespan(Protocol):
    """Plugin that holds something open while the node runs."""

    @abstractmethod
    def nodekit_lifespan(self, node: "Node") -> "AbstractAsyncContextManager[Any]":
        """Return a context manager to hold open while the node runs: entered after the runners, left before them.

        An error while entering stops the node from starting.

        Example::

            class Pusher:
                @asynccontextmanager
                async def nodekit_lifespan(self, node):
                    async with connect(...) as self.connection:
                        yield
        """


class RunsBeside(Protocol):
    """Plugin that runs beside the node."""

    @abstractmethod
    async def nodekit_run(self, node: "Node") -> None:
        """Run beside the node, from when it takes requests until it has drained; then the call is cancelled.

        Lifespans are open all the while. Returning early is fine. An exception ends the node, as the failure of a
        transport does: jobs that run go back to the store.

        Example::

            class Pulse:
                async def nodekit_run(self, node):
                    while True:
                        print((await node.pending()).total, "jobs are unfinished")
                        await anyio.sleep(60)
        """


class Admits(Protocol):
    """Plugin that lets requests in, or refuses them."""

    @abstractmethod
    async def nodekit_admit(self, request: JobRequest, node: "Node") -> None:
        """Raise `Refusal` (or `Unavailable`: not now) to reject a request; the first objection wins.

        Any other exception also refuses the request.

        Example::

            class Bouncer:
                async def nodekit_admit(self, request):
                    if request.client == "203.0.113.7":
                        raise Refusal("Not today", client=request.client)
        """


class TakesSubscriptions(Protocol):
    """Plugin that takes subscriptions from clients, and takes part in a chain."""

    @property
    def chain_address(self) -> str:
        """Address of the node on the chain, for clients to read in ``/info``. Empty while it has none."""
        return ""

    @abstractmethod
    async def nodekit_subscription(self, request: SubscriptionRequest, identity: Identity, node: "Node") -> bool:
        """Take a subscription: check it, keep it durably, and only then return True. Return False to leave it.

        The first plugin that takes it wins. Raise `Refusal` if the subscription is not acceptable, `Unavailable` if
        that cannot be said now. Any other exception or answer refuses it. If no plugin takes it, it is refused with
        ``Chain not enabled``. The client gets no id: the plugin works on the subscription from here on, for example by
        jobs of its own (`Node.submit`). Guards are not asked about it, only about those jobs.

        Example::

            class Subscriptions:
                async def nodekit_subscription(self, request, node):
                    subscription = self.checked(request)
                    await node.storage("subscriptions").put(subscription.key, subscription.record)
                    return True
        """


class WrapsSteps(Protocol):
    """Plugin that runs each attempt of a step."""

    @abstractmethod
    async def nodekit_step(self, step: Step, job: Job, call: StepCall, node: "Node") -> ContainerOutput:
        """Run one attempt of a step: by default ``return await call(step)``, which calls the container.

        Plugins nest in their order: the first one is outermost, and its `call` runs the next one. The whole counts in
        the container's `timeout_seconds` and in the job's time. A plugin may

        * add headers to the call: ``call(replace(step, headers={**step.headers, "traceparent": …}))``;
        * look at the output, or return another one;
        * answer without calling, for example from a cache;
        * raise `ContainerFailed`, or catch the one that `call` raised;
        * look at the pieces of a stream, or change them: ``call(step, pieces=…)`` (see `StepCall`).

        `call` may be called once. Any other exception, or an answer that is no output of this container, fails the step
        as ``internal``. If the job is cancelled, or the step's time is over, `call` raises the cancellation: let it
        pass.

        Example::

            class Timed:
                async def nodekit_step(self, step, call, node):
                    started = node.clock.monotonic()
                    try:
                        return await call(step)
                    finally:
                        self.seconds[step.container] = node.clock.monotonic() - started
        """


class Identifies(Protocol):
    """Plugin that says who sends a request."""

    @abstractmethod
    async def nodekit_identify(self, connection: Connection, node: "Node") -> Identity | None:
        """Say who sends a request. Return None if this plugin does not know; then the next plugin is asked.

        The first answer wins. Raise `Unauthorized` if the caller must say who it is, `Forbidden` if it may not do this.
        If no plugin answers, the client is the address. Any other exception, or answer, fails the request. Transports
        call the hook for each request, before limits and before they examine it, except for probes of health and the
        documentation; and again while a request lasts, which ends if the answer is another one.

        Example::

            class Tokens:
                async def nodekit_identify(self, connection):
                    token = connection.headers.get("authorization", "").removeprefix("Bearer ")
                    if token not in self.clients:
                        raise Unauthorized("a token is needed")
                    return Identity(client=self.clients[token], address=connection.address)
        """


class LimitsRequests(Protocol):
    """Plugin that makes callers wait who send too many requests."""

    @abstractmethod
    def nodekit_limit(self, identity: Identity, node: "Node") -> None:
        """Raise `TooManyRequests` if a caller sends requests too often; the first one wins.

        Transports call it for each request, before they examine the request. It is called often: no I/O. Any other
        exception fails the request.

        Example::

            class OneAtATime:
                def nodekit_limit(self, identity):
                    if identity.group in self.busy:
                        raise TooManyRequests("one at a time", retry_after_seconds=1)
        """


class LimitsClients(Protocol):
    """Plugin that knows the limits of single clients."""

    @abstractmethod
    def nodekit_client_limits(self, client: ClientId, group: GroupId, node: "Node") -> ClientLimits | None:
        """Return the limits of a client. Return None if this plugin knows none; then the next plugin is asked.

        The first answer wins. Fields that it leaves unset are those of `NodeLimits.clients`, and then of `each_client`.
        `concurrency` has no effect here, since it is decided when the node is composed. It is called for each request
        of a job, several times: no I/O. An exception refuses the request.

        Example::

            class Plans:
                def nodekit_client_limits(self, client):
                    return ClientLimits(max_pending=10) if client in self.trials else None
        """


class Observes(Protocol):
    """Plugin that receives events."""

    @abstractmethod
    def nodekit_observe(self, event: Event, node: "Node") -> None:
        """Observe an event, at most once, on the node where it happened. Must not block; an exception is only logged.

        New classes of events may be added: ignore those you do not know.

        Example::

            class Counter:
                finished = 0

                def nodekit_observe(self, event):
                    if isinstance(event, JobFinished):
                        self.finished += 1
        """


class ObservesStore(Protocol):
    """Plugin that measures calls of the store."""

    @abstractmethod
    def nodekit_observe_store(self, call: StoreCall, node: "Node") -> None:
        """Observe a call of the node's store and its duration. Must not block, like `nodekit_observe`.

        It is called after each call that returned or raised, except those that wait: `claim`, `claim_expired`,
        `changes`. Cancelled calls are left out. It is called several times for each job; without it, a node measures
        nothing.

        Example::

            class Slowest:
                seconds = 0.0

                def nodekit_observe_store(self, call):
                    self.seconds = max(self.seconds, call.seconds)
        """


class ReportsProblems(Protocol):
    """Plugin that reports problems."""

    @abstractmethod
    def nodekit_problems(self, node: "Node") -> Sequence[str]:
        """Return what is wrong right now, for an operator to read in ``/health``: one sentence each, or nothing.

        It is called often: no I/O. A problem does not make the node unhealthy.

        Example::

            class Pusher:
                def nodekit_problems(self):
                    return [] if self.connection.open else ["metrics are not pushed: the connection is closed"]
        """


class HasRoutes(Protocol):
    """Plugin that has pages of its own."""

    @abstractmethod
    def nodekit_routes(self, node: "Node") -> Sequence[Mount]:
        """Return the pages of a plugin: ASGI applications that HTTP transports serve below ``/-/<name>/``.

        It is called once, when the node is composed. The node is not composed if the call fails, if two plugins use the
        same name, or if a name has other characters than lower-case letters, digits and ``-``. Acquire resources in
        `nodekit_lifespan`, not here.

        Example::

            class Pages:
                def nodekit_routes(self):
                    return [Mount("pages", self.app)]
        """


HOOKS: Mapping[str, Callable[..., Any]] = {
    name: method
    for protocol in (
        *(HasLifespan, RunsBeside, Admits, TakesSubscriptions, WrapsSteps, Identifies),
        *(LimitsRequests, LimitsClients, Observes, ObservesStore, ReportsProblems, HasRoutes),
    )
    for name, method in vars(protocol).items()
    if name.startswith("nodekit_")
}
"""The hooks by name, each as the method of its Protocol."""


def hook_parameters(name: str) -> list[str]:
    """Return the names of the arguments of a hook."""
    return list(inspect.signature(HOOKS[name]).parameters)[1:]
