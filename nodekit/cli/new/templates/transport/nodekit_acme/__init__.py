"""The transport `acme`: nodekit's HTTP API on a server of its own.

`nodekit_asgi.AsgiApp` implements the API: it is an ASGI application that serves a node. This package brings the
requests to it: HTTP/1.1 by h11, on a TCP port.

Where to go on: any ASGI server can take the place of `_server.py`. A transport that does not speak HTTP needs none of
this: it calls `node.submit`, `node.fetch` and `node.wait`, and its tests use `TransportContract`.
"""

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Annotated

import anyio
import msgspec
from anyio.abc import SocketAttribute, TaskStatus

from nodekit import CompositionError, Node, NodeFile, NodekitError, Problem, Provider
from nodekit_asgi import AsgiApp, Limits

from ._server import Server

__all__ = ["AcmeConfig", "AcmeTransport", "provider"]

Seconds = Annotated[float, msgspec.Meta(ge=0)]


class AcmeConfig(Limits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table of the transport in a node file. `Limits` has the limits of one request, such as `max_batch`.

    - `host`: The IP address to listen on.
    - `port`: The TCP port; 0 picks a free one.
    - `idle_seconds`: Maximum number of seconds that a client may take for the head of its next request.
    - `stop_seconds`: Maximum number of seconds that stopping waits for requests that are being answered.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 4000
    idle_seconds: Seconds = 30.0
    stop_seconds: Seconds = 3.0


class AcmeTransport:
    """A transport that listens at the address of its config, for as long as the node runs."""

    def __init__(self, config: AcmeConfig) -> None:
        try:
            self._loopback = ip_address(config.host).is_loopback
        except ValueError as error:
            raise CompositionError(Problem("host", f"expected an IP address, got {config.host!r}")) from error
        self._config = config

    async def serve(self, node: Node, *, task_status: "TaskStatus[Sequence[str]]") -> None:
        config = self._config
        try:
            listener = await anyio.create_tcp_listener(local_host=config.host, local_port=config.port)
        except OSError as error:
            raise NodekitError(f"cannot listen on {config.host} port {config.port}: {error.strerror}") from error
        # With `loopback`, a web page of another site cannot call the node by a name that resolves to 127.0.0.1.
        app = AsgiApp(node, config, loopback=self._loopback)
        server = Server(app, idle_seconds=config.idle_seconds, stop_seconds=config.stop_seconds)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run, listener)
            task_status.started([_url(listener.extra(SocketAttribute.local_address))])  # clients can connect
            try:
                await anyio.sleep_forever()
            finally:  # cancelled, once the node has drained
                server.stop()


def _url(address: "tuple[str, int] | str") -> str:
    host, port = address[0], address[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def from_config(config: AcmeConfig, file: NodeFile) -> AcmeTransport:
    """Build the transport of a node file."""
    return AcmeTransport(config)


provider = Provider(AcmeConfig, from_config)
