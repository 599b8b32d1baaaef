"""The transport that brings HTTP requests to a node."""

import asyncio
import select
import socket
from collections.abc import Sequence

import anyio
from anyio.abc import TaskStatus
from msgspec.structs import replace

from nodekit import CompositionError, Node, NodeFile, NodekitError, Problem, Provider, descriptor_share, resolved_path
from nodekit_asgi.app import AsgiApp
from nodekit_asgi.config import AsgiConfig
from nodekit_asgi.http.networks import UNIX
from nodekit_asgi.server.bounded_listener import BoundedListener
from nodekit_asgi.server.deadlines import Deadlines
from nodekit_asgi.server.listen import (
    check_bind,
    check_free,
    is_loopback,
    listen,
    remove_socket_file,
    socket_file,
    url_of,
)
from nodekit_asgi.server.servers import SERVERS


class AsgiTransport:
    """A transport that serves HTTP at `bind`; None: that of `config`. It runs on asyncio only, as its servers do."""

    def __init__(self, bind: str | None = None, *, config: AsgiConfig | None = None) -> None:
        self._config = config or AsgiConfig()
        if bind is not None:
            self._config = replace(self._config, bind=bind)
        try:
            check_bind(self._config.bind)
        except NodekitError as error:
            raise CompositionError(Problem("bind", str(error).removeprefix("bind: "))) from error

    def check_address(self) -> None:
        """Raise `NodekitError` if `bind` cannot be listened on right now (`CheckingTransport`)."""
        check_free(self._config.bind)

    async def serve(self, node: Node, *, task_status: "TaskStatus[Sequence[str]]") -> None:
        listener = self._bounded(listen(self._config.bind))
        app = AsgiApp(node, self._config, loopback=is_loopback(listener))
        url, file = url_of(listener), socket_file(self._config.bind)
        stop, deadlines = anyio.Event(), Deadlines(self._config)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(SERVERS[self._config.server], app, self._config, listener, stop, deadlines)
                tasks.start_soon(deadlines.keep)
                task_status.started([url])
                try:
                    await anyio.sleep_forever()
                finally:
                    stop.set()
        finally:
            remove_socket_file(self._config.bind, file)

    def _bounded(self, listener: socket.socket) -> socket.socket:
        most = self._config.max_connections or descriptor_share()
        if most is None or not hasattr(select, "epoll"):
            return listener
        if not isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop):
            return listener  # uvloop uses the descriptor itself as a listening socket
        each = self._config.max_client_connections or max(1, most * 3 // 4)
        proxies = [text for text in self._config.trusted_proxies if text != UNIX]
        return BoundedListener(listener, most, most_each=each, exempt=proxies)


def from_config(config: AsgiConfig, file: NodeFile) -> AsgiTransport:
    """Build the transport of a node file. The path of a unix socket is relative to the file."""
    if config.bind.startswith("unix:") and config.bind != "unix:":
        try:
            path = resolved_path(config.bind.removeprefix("unix:"), file.folder)
        except ValueError as error:
            raise CompositionError(Problem("bind", str(error))) from error
        config = replace(config, bind=f"unix:{path}")
    return AsgiTransport(config=config)


provider = Provider(AsgiConfig, from_config)
