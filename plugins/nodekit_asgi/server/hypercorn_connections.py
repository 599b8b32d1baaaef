"""Connections of hypercorn on our own listener. Imported only if hypercorn is the server.

hypercorn's own `serve` cannot be cancelled (pgjones/hypercorn#184) and takes no listener. It also keeps the connection
of a client that has gone until the keep-alive time is over, so enough short visits would use up all descriptors. And it
does not notice that a client has gone if that client had sent more than the request that is being answered.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from hypercorn import Config
from hypercorn.asyncio.tcp_server import MAX_RECV, TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.utils import wrap_app  # pyright: ignore[reportUnknownVariableType]

from nodekit_asgi.server.disconnects import LOOK_SECONDS, has_gone
from nodekit_asgi.server.listen import stop_accepting


class PromptServer(TCPServer):
    """One connection, which is closed when its client has gone."""

    _client_has_gone = False

    async def _read_data(self) -> None:
        while not self.reader.at_eof():
            try:
                data = await self.reader.read(MAX_RECV)
            except OSError:
                break
            look = Look(self.loop, self.writer, self._has_gone)
            try:
                await self.protocol.handle(RawData(data))
            finally:
                look.cancel()
        await self.protocol.handle(Closed())
        self._client_has_gone = True
        await self.idle_task.stop()

    def _has_gone(self) -> None:
        """Report the end to the protocol, also if unread requests come before it."""
        self._task_group.spawn(self.protocol.handle, Closed())  # pyright: ignore[reportUnknownMemberType]

    async def protocol_send(self, event: Event) -> None:
        if not (self._client_has_gone and isinstance(event, Updated)):  # it would begin to wait for the next request
            await super().protocol_send(event)


class Look:
    """A periodic check whether a client has gone, while its last bytes are being handled."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, writer: asyncio.StreamWriter, notify: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._socket = writer.get_extra_info("socket")
        self._notify = notify
        self._timer = loop.call_later(LOOK_SECONDS, self._look)

    def cancel(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        if has_gone(self._socket):
            self._notify()
        else:
            self._timer = self._loop.call_later(LOOK_SECONDS, self._look)


async def serve(app: Any, settings: Config, listener: socket.socket, stop: Callable[[], Awaitable[None]]) -> None:
    """Accept until `stop` returns; then give requests that are being answered `graceful_timeout` seconds."""
    loop = asyncio.get_running_loop()
    context = WorkerContext(None)
    wrapped = wrap_app(app, settings.wsgi_max_body_size, "asgi")
    connections: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (task := asyncio.current_task()) is not None:
            connections[task] = writer
            task.add_done_callback(connections.pop)
        with suppress(asyncio.CancelledError):  # by `_end`; asyncio 3.11 would log each of them
            await PromptServer(wrapped, loop, settings, context, {}, reader, writer)

    server = await asyncio.start_server(connected, backlog=settings.backlog, sock=listener)
    try:
        await stop()
    finally:
        await context.terminated.set()
        await stop_accepting(listener)
        server.close()
        await _end(connections, settings.graceful_timeout)


async def _end(connections: dict[asyncio.Task[Any], asyncio.StreamWriter], seconds: float) -> None:
    """Wait `seconds` for the connections to end, then cut the rest.

    A client that does not read its reply would otherwise keep the node from stopping.
    """
    if connections:
        _, late = await asyncio.wait([*connections], timeout=seconds)
        for task in late:
            connections[task].transport.abort()
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
