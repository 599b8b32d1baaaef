"""A listening socket that admits a limited number of connections at once and leaves the others in its backlog.

Servers accept every connection. Once the process has reached its limit of open files, everything else fails too: calls
of containers, and the store. With this listener, further clients wait until others have gone.

Connections beyond one client's own limit are closed at once. Left in the backlog, they would block all clients behind
them.
"""

import asyncio
import errno
import logging
import select
import socket
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Self

from nodekit import counted, default_group
from nodekit_asgi.http.networks import in_networks, unmapped

logger = logging.getLogger("nodekit.http")

QUIET_SECONDS = 60.0
"""Pause between two warnings of one kind in the log."""
RETRY_SECONDS = 1.0
"""Pause after which accepting is tried again if there was no descriptor; others than its connections take them."""
NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
REFUSED_IN_A_TURN = 100
"""Connections of clients that have too many, which are closed before others on the event loop have their turn."""
CURE = "Set max_client_connections if it needs more, or trusted_proxies if it is a proxy"


class BoundedListener(socket.socket):
    """A limit on a listening socket, which it takes over.

    An event loop watches `fileno()` and accepts when it is readable. `fileno()` is not the socket's own descriptor. It
    belongs to an epoll object that watches the socket only while there is room. So the loop is never woken in vain and
    never has to retry.
    """

    def __init__(
        self, listener: socket.socket, most: int, *, most_each: int | None = None, exempt: Sequence[str] = ()
    ) -> None:
        """`most_each` is the limit of one client: an IPv4 address, or the /64 of an IPv6 address.

        It does not apply to addresses in the networks `exempt`, and not to unix sockets, whose clients have no address.
        """
        super().__init__(fileno=listener.detach())
        self.setblocking(False)
        self.open = 0
        self._most, self._most_each, self._exempt = most, most_each, tuple(exempt)
        self._each: Counter[str] = Counter()
        self._door = select.epoll()
        self._door.register(super().fileno(), select.EPOLLIN)
        self._shut = False
        self._quiet_until: dict[str, float] = {}

    def fileno(self) -> int:
        return -1 if self._door.closed else self._door.fileno()

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept one connection. Raise `BlockingIOError` if no client waits or the limit is reached.

        Connections of clients that have too many are closed, and the next one is taken: behind many of them, others
        would wait for a turn of the event loop for each.
        """
        for _ in range(REFUSED_IN_A_TURN):
            connection, address = self._accept_any()
            group = self._group(address)
            if group is None or self._most_each is None or self._each[group] < self._most_each:
                self.open += 1
                if group is not None:
                    self._each[group] += 1
                return _Connection.of(self, connection, group), address
            connection.close()
            self._warn(
                "one", f"{group} has {self._most_each} open connections, its limit; further ones are closed. {CURE}"
            )
        raise BlockingIOError  # the event loop comes back if more clients wait

    def _accept_any(self) -> tuple[socket.socket, Any]:
        if self.open >= self._most:
            self._shut_door(f"{counted(self.open, 'connection', 'is', 'are')} open, as many as there may be")
            raise BlockingIOError
        try:
            return super().accept()
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self._shut_door("the process has no descriptor left")
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._open_door)
            raise BlockingIOError from error

    def _group(self, address: Any) -> str | None:
        if self._most_each is None or self.family == socket.AF_UNIX:
            return None
        name = unmapped(address[0])
        return None if name is None or in_networks(name, self._exempt) else default_group(name)

    def _shut_door(self, text: str) -> None:
        self._door.modify(super().fileno(), 0)
        self._shut = True
        self._warn("all", f"{text}; further clients wait. Allow more open files (ulimit -n), or set max_connections")

    def _open_door(self) -> None:
        if self._shut and not self._door.closed:
            self._door.modify(super().fileno(), select.EPOLLIN)
            self._shut = False

    def _warn(self, kind: str, text: str) -> None:
        """Log a warning, unless one of the same kind was logged a moment ago."""
        if time.monotonic() > self._quiet_until.get(kind, 0.0):
            self._quiet_until[kind] = time.monotonic() + QUIET_SECONDS
            logger.warning("%s", text)

    def one_left(self, group: str | None) -> None:
        """Record that a connection was closed, and accept again if the limit was reached."""
        self.open -= 1
        if group is not None:
            self._each[group] -= 1
            if not self._each[group]:
                del self._each[group]
        self._open_door()

    def close(self) -> None:
        self._door.close()
        super().close()


class _Connection(socket.socket):
    """An accepted connection that gives its place back when it is closed."""

    _listener: BoundedListener | None = None
    _group: str | None = None

    @classmethod
    def of(cls, listener: BoundedListener, accepted: socket.socket, group: str | None) -> Self:
        connection = cls(listener.family, listener.type, listener.proto, fileno=accepted.detach())
        connection._listener, connection._group = listener, group
        return connection

    def close(self) -> None:
        super().close()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.one_left(self._group)
