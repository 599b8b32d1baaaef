"""The check that a connection leads to the container that it was made for.

A container knows its port only, and binds it itself. So any program on this machine may be there first.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Self, TypeGuard

from nodekit import ContainerFailed
from nodekit_process._process import Process
from nodekit_process._sockets import (
    ESTABLISHED,
    LISTEN,
    SYN_RECEIVED,
    Address,
    Socket,
    SocketTable,
    holds,
    places_of,
)
from nodekit_process.supervisor.descendants import descendants

HOST, HOST_OF_IPV6 = "127.0.0.1", "::1"


class Peers:
    """The containers by port, and the sockets at the other ends of connections to them."""

    def __init__(self) -> None:
        self._sockets = SocketTable()
        self._processes: dict[int, Process] = {}
        self._listening: dict[int, int] = {}
        """Inodes by port of listening sockets that were found to be a container's."""

    def __enter__(self) -> Self:
        self._sockets.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._sockets.__exit__(*error)

    @contextmanager
    def at(self, port: int, process: Process) -> Iterator[None]:
        """Have connections to a port belong to a container."""
        self._processes[port] = process
        try:
            yield
        finally:
            del self._processes[port]
            self._listening.pop(port, None)

    def check(self, own: Address, peer: Address) -> None:
        """Check a new connection, before anything is sent. Raise `ContainerFailed` if it leads to somebody else.

        The container's side is a socket of the node's user, or one that a process of the container has open: that may
        have changed its user.
        """
        process = self._processes.get(peer[1])
        if process is None:
            raise ContainerFailed("connection", "the container has ended")
        if not self._sockets.is_shown:
            return
        try:
            side = self._other_side(own, peer)
        except OSError as error:
            raise ContainerFailed("connection", f"nobody can tell whose port {peer[1]} is: {error}") from error
        if side is None:
            raise ContainerFailed("connection", "the container closed the connection at once")
        if side.user != os.geteuid() and not holds(_pids(process), side.inode):
            raise ContainerFailed("connection", _taken(peer[1], side))

    def _other_side(self, own: Address, peer: Address) -> Socket | None:
        """Return the socket that the container's side has, or the one that listens if nobody has accepted it yet.

        The listening socket counts only if nobody has accepted the connection after it was found, either: somebody
        could have done that, and then left the port to the container.
        """
        side = self._sockets.find(peer, own)
        if _is_open(side) and not side.inode:
            listening, side = self._sockets.find(peer), self._sockets.find(peer, own)
            if _is_open(side) and not side.inode:
                return listening if _is_listening(listening) else None
        return side if _is_open(side) else None

    def listens(self, port: int, process: Process) -> tuple[str, str | None]:
        """Return the address at which one of the container's processes listens at its port, and None.

        If none does, return who listens there instead; empty: nobody. Some programs listen on the loopback of IPv6
        only. If a process does not say what it has open, the socket's user decides.
        """
        if not self._sockets.is_shown:
            return HOST, None
        try:
            listening = self._sockets.find((HOST, port))
        except OSError as error:
            return HOST, f"nobody can tell whose port {port} is: {error}"
        if self._is_own(listening, port, process):
            return HOST, None
        with suppress(OSError):  # a kernel without IPv6
            if self._is_own(self._sockets.find((HOST_OF_IPV6, port)), port, process):
                return HOST_OF_IPV6, None
        return HOST, _taken(port, listening) if _is_listening(listening) else ""

    def _is_own(self, listening: Socket | None, port: int, process: Process) -> bool:
        if not _is_listening(listening):
            return False
        if self._listening.get(port) != listening.inode:
            held = holds(_pids(process), listening.inode)
            if not (held or (held is None and listening.user == os.geteuid())):
                return False
            self._listening[port] = listening.inode
        return True

    def places(self, process: Process) -> list[str]:
        """Return where the container's processes listen, such as ``127.0.0.1:8000``, as far as that is known."""
        return places_of(_pids(process)) if self._sockets.is_shown else []


def _is_open(side: Socket | None) -> TypeGuard[Socket]:
    return side is not None and side.state in (ESTABLISHED, SYN_RECEIVED)


def _is_listening(side: Socket | None) -> TypeGuard[Socket]:
    return side is not None and side.state == LISTEN


def _pids(process: Process) -> list[int]:
    return list(descendants(process.supervisor)) if process.supervisor else []


def _taken(port: int, by: Socket) -> str:
    return f'a program of user {by.user} has taken its port {port}; with listen = "inherit" nobody can'
