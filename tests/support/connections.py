"""Clients that leave or speak HTTP/2, the traces they leave in a node, and servers with scripted behaviour."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import h2.config
import h2.connection
import h2.events
from components import until
from http_api import Api, RawConnection

TURNS = 20
"""Turns of the event loop within which an accepted connection is served."""


class Traced(str):
    """A text that tells when it is gone."""

    __slots__ = ("__weakref__",)


def waiters(api: Api) -> int:
    """Return the number of waiters in a node."""
    return len(api.node._waiters.present)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def connections(port: int) -> Iterator[socket.socket]:
    """Yield this process's connections that were accepted on a port."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # it was closed meanwhile, or is not connected
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                with socket.socket(fileno=os.dup(int(name))) as one:
                    listens = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                    if not listens and one.family == socket.AF_INET and one.getsockname()[1] == port:
                        yield one


def accepted(port: int) -> int:
    return sum(1 for _ in connections(port))


def opened_while_it_drains(api: Api) -> "asyncio.Task[None]":
    """Open the node's gate once it drains."""

    async def open_gate() -> None:
        await until(lambda: api.node._executor._draining)
        api.gate.opened.set()

    return asyncio.create_task(open_gate())


def ask(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]).encode()


def leave(connection: RawConnection) -> None:
    connection.writer.close()


def reset(connection: RawConnection) -> None:
    connection.writer.transport.abort()


async def rest(connection: RawConnection) -> bytes:
    """Return everything until the node closes the connection."""
    received = b""
    async with asyncio.timeout(60):
        with suppress(ConnectionError):
            while piece := await connection.reader.read(1 << 16):
                received += piece
    return received


class Http2(h2.connection.H2Connection):
    """A client of HTTP/2 on a bare connection."""

    def __init__(self, connection: RawConnection) -> None:
        super().__init__(h2.config.H2Configuration(header_encoding="utf-8"))
        self.connection = connection
        self.initiate_connection()

    async def request(self, stream: int, method: str, path: str, body: bytes = b"") -> None:
        head = {":method": method, ":scheme": "http", ":authority": "127.0.0.1", ":path": path}
        self.send_headers(stream, list(head.items()), end_stream=not body)
        if body:
            self.send_data(stream, body, end_stream=True)
        await self.flush()

    async def flush(self) -> None:
        await self.connection.send(self.data_to_send())

    async def replied(self) -> tuple[int, str]:
        """Wait for the end of a reply; return its stream and status."""
        seen: list[Any] = []
        async with asyncio.timeout(20):
            while not any(isinstance(event, h2.events.StreamEnded) for event in seen):
                seen += self.receive_data(await self.connection.reader.read(65536))
        (reply,) = [event for event in seen if isinstance(event, h2.events.ResponseReceived)]
        return reply.stream_id, dict(reply.headers)[":status"]


@asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[asyncio.Server]:
    """Serve on a free port of loopback. Connections that are still served at the end are cancelled.

    From Python 3.12 on, closing a server of asyncio waits for its connections. That would last for ever if one of them
    waits for a client that has left.
    """
    connections: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task: Any = asyncio.current_task()
        connections.add(task)
        writers.append(writer)
        try:
            await serve(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # a connection may end in any way
        finally:
            connections.discard(task)
            writer.close()

    server = await asyncio.start_server(served, "127.0.0.1", 0)
    try:
        yield server
    finally:
        for sock in server.sockets:  # asyncio loses connections that begin after `close`
            asyncio.get_running_loop().remove_reader(sock)
        for _ in range(TURNS):
            await asyncio.sleep(0)
        server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        for writer in writers:
            if writer.get_extra_info("socket").fileno() >= 0:  # open, or closed and waiting for a client to read
                writer.transport.abort()
        await asyncio.sleep(0)
