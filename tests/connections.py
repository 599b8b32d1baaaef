"""Clients that go, and what of them is left behind in a node."""

import os
import socket
from contextlib import suppress

from http_api import Api, RawConnection


def waiters(api: Api) -> int:
    """How many wait in a node for a job to change."""
    assert api.node is not None
    return len({waiter for waiting in api.node._waiters._waiters.values() for waiter in waiting})


def accepted(port: int) -> int:
    """How many of this process's descriptors are connections that were accepted on a port."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # it is closed by now, or not connected
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
