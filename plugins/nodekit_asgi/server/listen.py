"""Listening sockets. They are bound before a server starts, so that a client can connect once the node is ready."""

import asyncio
import errno
import os
import socket
import stat
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from typing import Any
from urllib.parse import urlsplit

from nodekit import NodekitError
from nodekit_asgi.server.occupants import occupant

BACKLOG = 2048

TURNS_TO_BEGIN = 5
"""Event loop turns from accepting a connection until its server knows it."""


def check_bind(bind: str) -> None:
    """Raise `NodekitError` if `bind` is neither ``host:port`` nor ``unix:path``."""
    if not bind.removeprefix("unix:"):
        raise NodekitError("bind: unix: needs a path")
    if not bind.startswith("unix:"):
        host_and_port(bind)


def is_loopback(listener: socket.socket) -> bool:
    """Return True if only this machine can connect over IP, for any form of the address."""
    if listener.family == socket.AF_UNIX:
        return False
    address = ip_address(listener.getsockname()[0].partition("%")[0])
    return ((address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address).is_loopback


def listen(bind: str) -> socket.socket:
    """Bind and listen. Raise `NodekitError` with the reason if that fails."""
    try:
        return _unix(bind.removeprefix("unix:")) if bind.startswith("unix:") else _tcp(*host_and_port(bind))
    except OSError as error:
        raise NodekitError(f"cannot listen on {bind}: {error.strerror or error}; {_cure(bind, error)}") from error


def check_free(bind: str) -> None:
    """Raise `NodekitError` as `listen` does if an address cannot be listened on. Nothing listens, and nothing is made.

    A port is bound for a moment, so that connections of before that wait for their end are not in the way.
    """
    try:
        if bind.startswith("unix:"):
            _check_path(bind.removeprefix("unix:"))
        else:
            host, port = host_and_port(bind)
            family, kind, _, _, address = _addresses(host, port)[0]
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        raise NodekitError(f"cannot listen on {bind}: {error.strerror or error}; {_cure(bind, error)}") from error


def _check_path(path: str) -> None:
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    if _is_socket(path):
        _is_dead(path)
    elif os.path.lexists(path):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _cure(bind: str, error: OSError) -> str:
    is_path = bind.startswith("unix:")
    port = None if is_path else host_and_port(bind)[1]
    if isinstance(error, socket.gaierror):
        return "correct the name of the host in `bind`, or write an address"
    match error.errno:
        case errno.EADDRINUSE if is_path and not _is_socket(bind.removeprefix("unix:")):
            return "something that is no socket is there; remove it, or name another path in `bind`"
        case errno.EADDRINUSE:
            who = occupant(bind, port)
            if who.startswith(f"process {os.getpid()} "):
                return "another transport of this process has it; write another address in `bind`"
            return f"{who or 'another process'} has it; end that one, or write another address in `bind`"
        case errno.EADDRNOTAVAIL:
            return "this machine does not have it; write one of its addresses in `bind`, or 0.0.0.0 for all"
        case errno.EACCES if is_path:
            return "this user may not write in the folder; change its owner, or the path in `bind`"
        case errno.EACCES:
            return "write a port above 1023 in `bind`, or give the node CAP_NET_BIND_SERVICE"
        case errno.ENOENT:
            return "there is no such folder; make it, or correct the path in `bind`"
        case _:
            return "write another address in `bind`"


def _is_socket(path: str) -> bool:
    return os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode)


async def stop_accepting(listener: socket.socket) -> None:
    """Stop the event loop from accepting, and let the connections that it has accepted begin.

    asyncio loses those that begin only after their server was closed: nobody would ever close them.
    """
    asyncio.get_running_loop().remove_reader(listener)
    for _ in range(TURNS_TO_BEGIN):
        await asyncio.sleep(0)


def url_of(listener: socket.socket) -> str:
    """Return the URL at which clients reach the listener."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http://{host}:{name[1]}"


def host_and_port(bind: str) -> tuple[str, int]:
    """Return the parts of ``host:port``. Raise `NodekitError` for anything else."""
    try:
        parts = urlsplit(f"//{bind}")
        if parts.hostname and parts.port is not None and parts.netloc == bind:
            return parts.hostname, parts.port
    except ValueError as error:
        if "Port out of range" in str(error):
            raise NodekitError(f"bind: expected a port from 0 (a free one) to 65535, got {bind!r}") from error
    raise NodekitError(f'bind: expected "host:port", "[v6]:port" or "unix:path", got {bind!r}')


def _addresses(host: str, port: int) -> list[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)


def _tcp(host: str, port: int) -> socket.socket:
    family, kind, _, _, address = _addresses(host, port)[0]
    # asyncio sets TCP_NODELAY on connections only if the listener names its protocol; each reply takes 44 ms without it
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


def socket_file(bind: str) -> tuple[int, int] | None:
    """Return device and inode of the file that a unix socket was just bound to; None for other listeners.

    They distinguish it from a file that another process later puts in its place.
    """
    if not bind.startswith("unix:"):
        return None
    found = os.stat(bind.removeprefix("unix:"))
    return found.st_dev, found.st_ino


def remove_socket_file(bind: str, file: tuple[int, int] | None) -> None:
    """Remove the socket file, unless it is gone or has been replaced by another process."""
    with suppress(FileNotFoundError):
        if file is not None and socket_file(bind) == file:
            os.unlink(bind.removeprefix("unix:"))


def _unix(path: str) -> socket.socket:
    if _is_socket(path) and _is_dead(path):
        with suppress(FileNotFoundError):
            os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _is_dead(path: str) -> bool:
    """Return True for a socket file that a killed node left behind: connections to it are refused.

    Return False if it is gone. Raise `OSError` if another process listens there.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except FileNotFoundError:
            return False
        except BlockingIOError:
            pass  # its backlog is full, so another process listens
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
