"""A check that an engine answers."""

import contextlib
import socket


def answers(host: str) -> bool:
    """Return True if an engine answers at `host`. docker-py would leave sockets open if it cannot connect."""
    scheme, _, place = host.partition("://")
    with contextlib.suppress(OSError, ValueError), contextlib.closing(_connection(scheme, place)) as connection:
        connection.settimeout(5)
        connection.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
        return connection.recv(4096).startswith(b"HTTP/1")
    return False


def _connection(scheme: str, place: str) -> socket.socket:
    if scheme != "unix":
        name, _, port = place.rpartition(":")
        return socket.create_connection((name, int(port)), timeout=5)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(place)
    except OSError:
        connection.close()
        raise
    return connection
