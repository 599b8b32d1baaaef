"""Where a transport listens: looked at from outside, and chosen for it."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
from anyio.abc import SocketStream, TaskStatus

from nodekit import Node, Transport


def address_of(url: str) -> tuple[str, int] | str:
    """Host and port, or the path of a unix socket, that a URL names."""
    if url.startswith("unix:"):
        return url.removeprefix("unix:").removeprefix("//")
    parts = urlsplit(url)
    assert parts.hostname, f"{url!r} does not say where to connect to: expected scheme://host:port or unix:path"
    assert parts.port, f"{url!r} does not say where to connect to: expected scheme://host:port or unix:path"
    return parts.hostname, parts.port


async def connect(url: str, source: str | None = None) -> SocketStream:
    """A bare connection, from an address of this machine."""
    address = address_of(url)
    if isinstance(address, str):
        return await anyio.connect_unix(address)
    return await anyio.connect_tcp(*address, local_host=source)


def listens(url: str) -> bool:
    """Whether the kernel takes connections there, whatever the event loop does meanwhile."""
    address = address_of(url)
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else _family(address[0])) as probe:
        probe.settimeout(5)
        return probe.connect_ex(address) == 0


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


@contextmanager
def port_taken() -> Iterator[int]:
    """A port of 127.0.0.1 that somebody else listens at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


@contextmanager
def only_port(port: int) -> Iterator[None]:
    """Whoever asks for a free port in this block gets this one, or the error that it is in use."""
    bind = socket.socket.bind

    def bind_there(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[1] == 0:
            address = (address[0], port, *address[2:])
        bind(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "bind", bind_there)
        yield


class Watched:
    """A transport, and what it says of where it listens at the moment when it says so."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.said: list[str] = []
        self.early: list[str] = []
        """Said before anybody could connect there."""
        self.times = 0

    async def serve(self, node: Node, *, task_status: "TaskStatus[Sequence[str]]") -> None:
        await self._transport.serve(node, task_status=_Told(self, task_status))


class _Told:
    def __init__(self, watched: Watched, status: "TaskStatus[Sequence[str]]") -> None:
        self._watched = watched
        self._status = status

    def started(self, value: Sequence[str] = ()) -> None:
        self._watched.times += 1
        self._watched.said += value
        self._watched.early += [url for url in value if not listens(url)]
        self._status.started(value)
