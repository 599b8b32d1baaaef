"""The HTTP servers. Each serves a socket that already listens, until `stop` is set.

Both run on asyncio.
"""

import socket
from asyncio import Protocol
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias, cast

import anyio

from nodekit_asgi.config import AsgiConfig
from nodekit_asgi.server.deadlines import Deadlines
from nodekit_asgi.server.listen import BACKLOG, stop_accepting

Server: TypeAlias = Callable[[Any, AsgiConfig, socket.socket, anyio.Event, Deadlines], Coroutine[Any, Any, None]]


async def hypercorn(
    app: Any, config: AsgiConfig, listener: socket.socket, stop: anyio.Event, deadlines: Deadlines
) -> None:
    """Serve with hypercorn. Requests being answered end after `stop_seconds`, not upon cancellation."""
    from hypercorn import Config

    from nodekit_asgi.server.hypercorn_connections import Server
    from nodekit_asgi.server.refusals import HEADER_BYTES

    settings = Config()
    settings.backlog = BACKLOG
    settings.graceful_timeout = config.stop_seconds
    settings.h11_max_incomplete_size = HEADER_BYTES
    settings.include_server_header = False
    settings.accesslog = None
    settings.errorlog = None
    with anyio.CancelScope(shield=True):
        await Server(app, settings, deadlines, http2=config.http2).serve(listener, stop.wait)


async def uvicorn(
    app: Any, config: AsgiConfig, listener: socket.socket, stop: anyio.Event, deadlines: Deadlines
) -> None:
    """Serve with uvicorn. The node, not uvicorn, handles signals."""
    from uvicorn import Config, Server

    from nodekit_asgi.server.uvicorn_protocol import BoundedHttpTools

    class Quiet(Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    settings = Config(
        app,
        lifespan="off",
        ws="none",
        http=cast(type[Protocol], partial(BoundedHttpTools, deadlines)),
        access_log=False,
        log_config=None,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=int(config.stop_seconds),
    )
    server = Quiet(settings)

    async def stop_when_asked() -> None:
        await stop.wait()
        await stop_accepting(listener)
        server.should_exit = True  # uvicorn checks this ten times a second

    with anyio.CancelScope(shield=True):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop_when_asked)
            await server.serve(sockets=[listener])
            for connection in [*server.server_state.connections]:  # uvicorn leaves open what took too long
                cast(BoundedHttpTools, connection).transport.abort()
            tasks.cancel_scope.cancel()


SERVERS: Mapping[str, Server] = {"hypercorn": hypercorn, "uvicorn": uvicorn}
