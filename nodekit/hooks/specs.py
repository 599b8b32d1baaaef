"""The hooks of nodekit. A plugin is any object with methods (or a module with functions) of these names.

A hook's colour is fixed: `async def` where it is `async def` here, plain `def` where it is plain here. Take any subset
of its arguments, by name. Plugins are asked in the order in which the node was given them, and then the store, the
runners and the transports that have such methods.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from nodekit.hooks.mounts import Mount
from nodekit.model.container import ClientId
from nodekit.model.events import Event, StoreCall
from nodekit.model.job import JobRequest

if TYPE_CHECKING:
    from nodekit.node.node import Node


def nodekit_lifespan(node: "Node") -> "AbstractAsyncContextManager[Any]":  # type: ignore[empty-body]
    """Something to hold open while the node runs: entered after the runners, left before them.

    An error while entering stops the node from starting.

    Example::

        class Pusher:
            @asynccontextmanager
            async def nodekit_lifespan(self, node):
                async with connect(...) as self.connection:
                    yield
    """


async def nodekit_admit(request: JobRequest, node: "Node") -> None:
    """Object to a request by raising `Refusal` (or `Unavailable`: not now); the first objection wins.

    Any other exception refuses too.

    Example::

        class Bouncer:
            async def nodekit_admit(self, request):
                if request.client == "203.0.113.7":
                    raise Refusal("Not today", client=request.client)
    """


def nodekit_limit(client: ClientId, node: "Node") -> None:
    """Let a client wait that asks too often, by raising `TooManyRequests`; the first one wins.

    Transports ask for each request, before they look at what it wants. It is asked often: no I/O. Any other exception
    fails the request.

    Example::

        class OneAtATime:
            def nodekit_limit(self, client):
                if client in self.busy:
                    raise TooManyRequests("one at a time", retry_after_seconds=1)
    """


def nodekit_observe(event: Event, node: "Node") -> None:
    """Notice what happened, at most once, on the node where it happened. Must not block; an exception is only logged.

    Classes of events are added as nodekit grows: leave alone what you do not know.

    Example::

        class Counter:
            finished = 0

            def nodekit_observe(self, event):
                if isinstance(event, JobFinished):
                    self.finished += 1
    """


def nodekit_observe_store(call: StoreCall, node: "Node") -> None:
    """Notice a call that the node has made of its store, and how long it took. Must not block, as `nodekit_observe`.

    Told after each call that returned or raised, but for those that wait: `claim`, `claim_expired`, `changes`. Calls
    that were cancelled are not told. It is called several times for each job, and a node measures nothing without it.

    Example::

        class Slowest:
            seconds = 0.0

            def nodekit_observe_store(self, call):
                self.seconds = max(self.seconds, call.seconds)
    """


def nodekit_problems(node: "Node") -> Sequence[str]:  # type: ignore[empty-body]
    """Say what is wrong right now, a sentence each, for an operator to read in ``/health``; nothing: an empty list.

    It is asked often: no I/O. It does not make the node unhealthy.

    Example::

        class Pusher:
            def nodekit_problems(self):
                return [] if self.connection.open else ["metrics are not pushed: the connection is closed"]
    """


def nodekit_routes(node: "Node") -> Sequence[Mount]:  # type: ignore[empty-body]
    """Pages of a plugin: ASGI applications that transports which speak HTTP serve below ``/-/<name>/``.

    Asked once, when the node is composed; a failure, a name that two plugins want or one that is not made of
    lower-case letters, digits and ``-`` keeps it from being made. Acquire nothing here, but in `nodekit_lifespan`.

    Example::

        class Pages:
            def nodekit_routes(self):
                return [Mount("pages", self.app)]
    """
