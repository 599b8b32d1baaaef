"""Connections of hypercorn on a listener of nodekit. Imported only if hypercorn is the server.

hypercorn's own `serve` cannot be cancelled (pgjones/hypercorn#184) and takes no listener. Its connections have no
deadline for headers and readers, keep the client that has gone until the keep-alive time is over, and go on serving one
that has reset the connection.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

from hypercorn import Config
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.events import Closed, Event, RawData
from hypercorn.typing import ConnectionState

from nodekit_asgi.server.deadlines import ConnectionDeadlines, Deadlines, Late, peer_address
from nodekit_asgi.server.disconnects import Looks, has_gone
from nodekit_asgi.server.hypercorn_http1 import Http1, Http2Begins
from nodekit_asgi.server.hypercorn_http2 import Http2
from nodekit_asgi.server.hypercorn_streams import Applications
from nodekit_asgi.server.listen import stop_accepting

logger = logging.getLogger("nodekit.http")

READ_BYTES = 1 << 16


class Connection:
    """One connection, which is closed when its client has gone or is late."""

    def __init__(
        self,
        server: "Server",
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._server = server
        self._reader, self._writer = reader, writer
        self._transport = cast(asyncio.Transport, writer.transport)
        self._deadlines = ConnectionDeadlines(server.deadlines, self._transport, self._late)
        self._sending = asyncio.Lock()
        self._protocol: Http1 | Http2

    async def run(self) -> None:
        try:
            addresses = peer_address(self._transport), _own_address(self._transport)
            async with asyncio.TaskGroup() as self._tasks:
                applications = Applications(self._tasks)
                self._protocol = self._http1(applications, *addresses)
                try:
                    await self._read()
                except Http2Begins as begins:
                    self._protocol = self._http2(applications, *addresses)
                    await self._protocol.initiate()
                    await self._protocol.handle(RawData(begins.data))
                    await self._read()
                await self._protocol.handle(Closed())
        except OSError:
            pass  # the client has gone
        finally:
            await self._close()
            self._deadlines.ended()

    def close_unless_working(self) -> None:
        """Close a connection on which no request is being answered."""
        if not self._deadlines.is_working:
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def _http1(self, applications: Any, client: Any, own: Any) -> Http1:
        common = (self._server.app, self._server.settings, self._server.context, applications, ConnectionState({}))
        return Http1(self._deadlines, *common, client, own, self._send, http2=self._server.http2)

    def _http2(self, applications: Applications, client: Any, own: Any) -> Http2:
        common = (self._server.app, self._server.settings, self._server.context, applications, ConnectionState({}))
        return Http2(self._deadlines, self._server.deadlines, *common, client, own, self._send)

    async def _read(self) -> None:
        looks = self._server.looks
        while not self._reader.at_eof():
            try:
                data = await self._reader.read(READ_BYTES)
            except OSError:
                return
            looks.begin(self)
            try:
                await self._protocol.handle(RawData(data))
            finally:
                looks.end(self)

    def look(self) -> bool:
        """Return True if the client has gone. Report that to the protocol, also if unread requests come before it."""
        gone = has_gone(self._writer.get_extra_info("socket"))
        if gone:
            self._tasks.create_task(self._protocol.handle(Closed()))
        return gone

    async def _send(self, event: Event) -> None:
        if isinstance(event, RawData):
            async with self._sending:
                if not self._transport.is_closing():
                    self._deadlines.written += len(event.data)
                    try:
                        self._writer.write(event.data)
                        await self._writer.drain()
                    except (ConnectionError, RuntimeError):
                        await self._protocol.handle(Closed())
                else:
                    await asyncio.sleep(0)  # an application that only sends would not let others run
        elif isinstance(event, Closed):
            await self._close()

    async def _close(self) -> None:
        """End the connection. What was written is still sent, for as long as the client takes it."""
        with suppress(OSError, RuntimeError, NotImplementedError):
            self._writer.write_eof()
        with suppress(OSError, RuntimeError, asyncio.CancelledError):
            self._writer.close()
            await self._writer.wait_closed()

    def _late(self, late: Late) -> None:
        if late is Late.READING:
            self._transport.abort()
        elif not self._transport.is_closing():
            if words := self._protocol.last_words():
                self._deadlines.written += len(words)
                self._transport.write(words)
            self._transport.close()


class Server:
    """The connections of a listener."""

    def __init__(self, app: Any, settings: Config, deadlines: Deadlines, *, http2: bool) -> None:
        self.app = app
        self.settings = settings
        self.deadlines = deadlines
        self.http2 = http2
        self.context = WorkerContext(None)
        self.looks = Looks()
        self._connections: dict[asyncio.Task[Any], Connection] = {}

    async def serve(self, listener: socket.socket, stop: Callable[[], Awaitable[None]]) -> None:
        """Accept until `stop` returns; then give requests that are being answered `graceful_timeout` seconds."""
        server = await asyncio.start_server(self._connected, backlog=self.settings.backlog, sock=listener)
        try:
            await stop()
        finally:
            await self.context.terminated.set()
            await stop_accepting(listener)
            server.close()
            await self._end(self.settings.graceful_timeout)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(self, reader, writer)
        if (task := asyncio.current_task()) is not None:
            self._connections[task] = connection
            task.add_done_callback(self._connections.pop)
        try:
            await connection.run()
        except asyncio.CancelledError:
            pass  # by `_end`; asyncio 3.11 would log each of them
        except Exception as error:  # whatever a client has brought about ends its own connection
            logger.warning("a connection has failed: %r", error)
            logger.debug("a connection has failed", exc_info=error)

    async def _end(self, seconds: float) -> None:
        """Wait `seconds` for the connections to end, then cut the rest.

        A client that does not read its reply would otherwise keep the node from stopping.
        """
        for connection in self._connections.values():
            connection.close_unless_working()
        if self._connections:
            _, late = await asyncio.wait([*self._connections], timeout=seconds)
            for task in late:
                self._connections[task].abort()
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


def _own_address(transport: asyncio.BaseTransport) -> tuple[str, int] | None:
    name: Any = transport.get_extra_info("sockname")
    of_unix = transport.get_extra_info("socket").family == socket.AF_UNIX
    return None if of_unix else (str(name[0]), int(name[1]))
