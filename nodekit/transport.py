"""Interface of what brings requests to a node."""

from typing import TYPE_CHECKING, Protocol

from anyio.abc import TaskStatus

if TYPE_CHECKING:
    from nodekit.node import Node


class Transport(Protocol):
    """Serves a node's clients."""

    async def serve(self, node: "Node", *, task_status: "TaskStatus[None]") -> None:
        """Listen, say so with `task_status.started()`, and serve until cancelled.

        The node cancels it when drained: requests that are being answered may finish, new ones are not taken.
        """
        ...
