"""Detection of closed connections, even if bytes that the client sent earlier are still unread.

Bytes that follow a request stay unread until its reply is sent, and so does the end of the connection. A server that
does not read on would not learn that the client has gone, and would go on sending a stream that nobody reads.
"""

import asyncio
import select
import socket
from typing import Protocol

LOOK_SECONDS = 0.5
"""Interval of the checks while a connection is not read."""

_GONE = getattr(select, "POLLRDHUP", 0)


def has_gone(connection: socket.socket) -> bool:
    """Return True if the client has gone, without reading from the connection.

    A client that has shut down only its sending side counts as gone too, as it does for servers that read.
    """
    if connection.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), _GONE)
    return bool(poll.poll(0))


class Looked(Protocol):
    """A connection whose client may go while what it has sent is being handled."""

    def look(self) -> bool:
        """Return True, and act, if the client has gone."""
        ...


class Looks:
    """Periodic checks of connections that are not read, all with one timer. Most are not read for a moment only."""

    def __init__(self) -> None:
        self._connections: set[Looked] = set()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, connection: Looked) -> None:
        self._connections.add(connection)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def end(self, connection: Looked) -> None:
        self._connections.discard(connection)

    def _look(self) -> None:
        self._timer = None
        for connection in [*self._connections]:
            if connection.look():
                self.end(connection)
        if self._connections:
            self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)
