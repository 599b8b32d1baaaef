"""Interface of what brings requests to a node."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from anyio.abc import TaskStatus

if TYPE_CHECKING:
    from nodekit.node.node import Node


class Transport(Protocol):
    """Serves a node's clients."""

    async def serve(self, node: "Node", *, task_status: "TaskStatus[Sequence[str]]") -> None:
        """Listen, say where with `task_status.started(urls)`, and serve until cancelled.

        Raises `NodekitError` that names the address where it cannot listen; `started` is for when clients can connect.
        The node cancels it when drained: requests that are being answered may finish, new ones are not taken.
        """
        ...
