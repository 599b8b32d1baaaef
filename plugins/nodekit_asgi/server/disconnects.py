"""Detection of closed connections, even if bytes that the client sent earlier are still unread.

Bytes that follow a request stay unread until its reply is sent, and so does the end of the connection. A server that
does not read on would not learn that the client has gone, and would go on sending a stream that nobody reads.
"""

import select
import socket

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
