"""Whether the other end of a connection has gone, also where bytes that it sent before are not read yet.

What a client sends behind a request waits there until that one's reply is sent, and so does its end: a server that does
not read on would not learn of it, and a stream would go on for nobody.
"""

import select
import socket

LOOK_SECONDS = 0.5
"""How often it is looked for while a connection is not read."""

_GONE = getattr(select, "POLLRDHUP", 0)


def has_gone(connection: socket.socket) -> bool:
    """Without reading. Who has shut down only its sending has gone, too: so it is to servers that read."""
    if connection.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), _GONE)
    return bool(poll.poll(0))
