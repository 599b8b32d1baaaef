"""Clients that leave, the traces they leave in a node, and servers with scripted behaviour."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from http_api import Api, RawConnection

TURNS = 20
"""Turns of the event loop within which an accepted connection is served."""


def waiters(api: Api) -> int:
    """Return the number of waiters in a node."""
    assert api.node is not None
    return len({waiter for waiting in api.node._waiters._waiters.values() for waiter in waiting})


def accepted(port: int) -> int:
    """Return the number of this process's descriptors that are connections accepted on a port."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # it was closed meanwhile, or is not connected
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                with socket.socket(fileno=os.dup(int(name))) as one:
                    listens = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                    found += not listens and one.family == socket.AF_INET and one.getsockname()[1] == port
    return found


def ask(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]).encode()


def leave(connection: RawConnection) -> None:
    connection.writer.close()


def reset(connection: RawConnection) -> None:
    connection.writer.transport.abort()


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
        server.close()
        for _ in range(TURNS):
            await asyncio.sleep(0)
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        for writer in writers:
            if writer.get_extra_info("socket").fileno() >= 0:  # open, or closed and waiting for a client to read
                writer.transport.abort()
        await asyncio.sleep(0)
