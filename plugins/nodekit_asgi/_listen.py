"""Listening sockets, bound before a server starts: ready means that a client can connect."""

import os
import socket
import stat
from ipaddress import ip_address
from urllib.parse import urlsplit

from nodekit import NodekitError

BACKLOG = 2048


def check_bind(bind: str) -> None:
    """Raises `NodekitError` where it is neither ``host:port`` nor ``unix:path``."""
    if not bind.removeprefix("unix:"):
        raise NodekitError("bind: unix: needs a path")
    if not bind.startswith("unix:"):
        _host_and_port(bind)


def is_loopback(bind: str) -> bool:
    """Whether nobody but this machine can connect over IP."""
    if bind.startswith("unix:"):
        return False
    host = _host_and_port(bind)[0]
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def listen(bind: str) -> socket.socket:
    """Bind and listen. Raises `NodekitError` saying what is in the way."""
    try:
        return _unix(bind.removeprefix("unix:")) if bind.startswith("unix:") else _tcp(*_host_and_port(bind))
    except OSError as error:
        raise NodekitError(f"cannot listen on {bind}: {error.strerror or error}") from error


def url_of(listener: socket.socket) -> str:
    """Where clients reach it."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http://{host}:{name[1]}"


def _host_and_port(bind: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{bind}")
        if parts.hostname and parts.port is not None and parts.netloc == bind:
            return parts.hostname, parts.port
    except ValueError:
        pass
    raise NodekitError(f'bind: expected "host:port", "[v6]:port" or "unix:path", got {bind!r}')


def _tcp(host: str, port: int) -> socket.socket:
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    # asyncio sets TCP_NODELAY on connections only where the listener names its protocol; 44 ms a reply without it
    listener = socket.socket(family, kind, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _unix(path: str) -> socket.socket:
    if os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode):
        os.unlink(path)  # left behind by a killed node
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener
