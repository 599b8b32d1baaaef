"""Addresses at which a transport listens: checked from outside, and chosen for it."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
from anyio.abc import SocketStream, TaskStatus

from nodekit import Node, Transport


def address_of(url: str) -> tuple[str, int] | str:
    """Return the host and port, or the path of the unix socket, that a URL names."""
    if url.startswith("unix:"):
        return url.removeprefix("unix:").removeprefix("//")
    parts = urlsplit(url)
    assert parts.hostname, f"{url!r} does not say where to connect to: expected scheme://host:port or unix:path"
    assert parts.port, f"{url!r} does not say where to connect to: expected scheme://host:port or unix:path"
    return parts.hostname, parts.port


def unix_path(url: str) -> str | None:
    """Return the path of a unix socket. Return None for a URL of another kind."""
    address = address_of(url)
    return address if isinstance(address, str) else None


async def connect(url: str, source: str | None = None) -> SocketStream:
    """Open a bare connection from an address of this machine."""
    address = address_of(url)
    if isinstance(address, str):
        return await anyio.connect_unix(address)
    return await anyio.connect_tcp(*address, local_host=source)


def listens(url: str) -> bool:
    """Return True if the kernel accepts connections there, even while the event loop is busy."""
    address = address_of(url)
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else _family(address[0])) as probe:
        probe.settimeout(5)
        return probe.connect_ex(address) == 0


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


@contextmanager
def taken(url: str) -> Iterator[int | None]:
    """Occupy the address of a URL: the path of a unix socket, or a port of 127.0.0.1. Yields the port, or None for a
    path."""
    path = unix_path(url)
    with socket.socket(socket.AF_INET if path is None else socket.AF_UNIX) as other:
        if path is not None:
            Path(path).unlink(missing_ok=True)  # left behind by the former listener
        other.bind(("127.0.0.1", 0) if path is None else path)
        other.listen()
        yield other.getsockname()[1] if path is None else None
    if path is not None:
        Path(path).unlink(missing_ok=True)


@contextmanager
def only_port(port: int) -> Iterator[None]:
    """Give this port to all code in the block that asks for a free port, or the error that the port is in use."""
    bind = socket.socket.bind

    def bind_there(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[1] == 0:
            address = (address[0], port, *address[2:])
        bind(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "bind", bind_there)
        yield


class Watched:
    """A transport that records the URLs it reports, at the moment when it reports them."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.said: list[str] = []
        self.early: list[str] = []
        """URLs that were reported before anybody could connect there."""
        self.times = 0

    async def serve(self, node: Node, *, task_status: "TaskStatus[Sequence[str]]") -> None:
        await self._transport.serve(node, task_status=_Reported(self, task_status))


class _Reported:
    def __init__(self, watched: Watched, status: "TaskStatus[Sequence[str]]") -> None:
        self._watched = watched
        self._status = status

    def started(self, value: Sequence[str] = ()) -> None:
        self._watched.times += 1
        self._watched.said += value
        self._watched.early += [url for url in value if not listens(url)]
        self._status.started(value)
