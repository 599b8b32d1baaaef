"""Interface of components that bring requests to a node."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from anyio.abc import TaskStatus

if TYPE_CHECKING:
    from nodekit.node.node import Node


class Transport(Protocol):
    """A component that serves a node's clients."""

    async def serve(self, node: "Node", *, task_status: "TaskStatus[Sequence[str]]") -> None:
        """Listen, report the addresses with `task_status.started(urls)`, and serve until cancelled.

        Call `started` once clients can connect. Raise a `NodekitError` that names the address if it cannot be listened
        on. The node cancels this call once it is drained: requests in progress may finish, new ones are not taken.
        """
        ...


class CheckingTransport(Transport, Protocol):
    """A transport that knows before it serves whether its address is free."""

    def check_address(self) -> None:
        """Raise a `NodekitError` that names the address, and a cure, if it cannot be listened on.

        Called before the node opens its store and starts its containers, which may take minutes. Nothing stays open.
        """
        ...
