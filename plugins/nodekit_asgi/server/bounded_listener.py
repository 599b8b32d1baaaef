"""A listening socket that admits a limited number of connections at once and leaves the others in its backlog.

Servers accept every connection. Once the process has reached its limit of open files, everything else fails too: calls
of containers, and the store. With this listener, further clients wait until others have gone.
"""

import errno
import logging
import select
import socket
import time
from typing import Any, Self

logger = logging.getLogger("nodekit.http")

QUIET_SECONDS = 60.0
"""Pause between two warnings in the log that clients have to wait."""


class BoundedListener(socket.socket):
    """A limit on a listening socket, which it takes over.

    An event loop watches `fileno()` and accepts when it is readable. `fileno()` is not the socket's own descriptor. It
    belongs to an epoll object that watches the socket only while there is room. So the loop is never woken in vain and
    never has to retry.
    """

    def __init__(self, listener: socket.socket, most: int) -> None:
        super().__init__(fileno=listener.detach())
        self.setblocking(False)
        self.open = 0
        self._most = most
        self._door = select.epoll()
        self._door.register(super().fileno(), select.EPOLLIN)
        self._shut = False
        self._quiet_until = 0.0

    def fileno(self) -> int:
        return -1 if self._door.closed else self._door.fileno()

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept one connection. Raise `BlockingIOError` if no client waits or the limit is reached."""
        if self.open >= self._most:
            self._shut_door(f"{self.open} connections are open, as many as there may be")
            raise BlockingIOError
        try:
            connection, address = super().accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or not self.open:
                raise
            self._shut_door("the process has no descriptor left")
            raise BlockingIOError from error
        self.open += 1
        return _Connection.of(self, connection), address

    def _shut_door(self, text: str) -> None:
        self._door.modify(super().fileno(), 0)
        self._shut = True
        if time.monotonic() > self._quiet_until:
            self._quiet_until = time.monotonic() + QUIET_SECONDS
            logger.warning("%s; further clients wait. Allow more open files (ulimit -n), or set max_connections", text)

    def one_left(self) -> None:
        """Record that a connection was closed, and accept again if the limit was reached."""
        self.open -= 1
        if self._shut and not self._door.closed:
            self._door.modify(super().fileno(), select.EPOLLIN)
            self._shut = False

    def close(self) -> None:
        self._door.close()
        super().close()


class _Connection(socket.socket):
    """An accepted connection that gives its place back when it is closed."""

    _listener: BoundedListener | None = None

    @classmethod
    def of(cls, listener: BoundedListener, accepted: socket.socket) -> Self:
        connection = cls(listener.family, listener.type, listener.proto, fileno=accepted.detach())
        connection._listener = listener
        return connection

    def close(self) -> None:
        super().close()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.one_left()
