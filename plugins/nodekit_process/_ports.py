"""Free ports on loopback."""

import errno
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from random import SystemRandom
from typing import Any

BACKLOG = 1024
_LOWEST = 10_000
_TRIES = 100


def listening() -> socket.socket:
    """Return a socket that listens at a free port."""
    listener = socket.socket()
    try:
        listener.bind(("127.0.0.1", 0))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


@contextmanager
def free_port() -> Iterator[int]:
    """Yield a port that no process listens on. Until the block ends, no other container gets it.

    If there is room, it lies below the range from which the kernel takes ports for outgoing connections. So no
    connection takes it before the process does, not even a probe of that very port. The system's random source keeps
    programs with the same random seed from choosing the same ports. Raise `OSError` if no port is free.
    """
    random = SystemRandom()
    below = _first_outgoing_port()
    candidates = [random.randrange(_LOWEST, below) for _ in range(_TRIES)] if below > 2 * _LOWEST else []
    for port in (*candidates, *[0] * _TRIES):
        try:
            reserved, found = _reserved(port)
        except OSError:  # taken
            continue
        with reserved:
            yield found
        return
    raise OSError("no port is free on 127.0.0.1")


def _reserved(port: int) -> tuple[Any, int]:
    """Return a free port, and what keeps it reserved until it is closed. Raise `OSError` if it is taken; 0 is any.

    Between the choice of a port and the moment when its process listens on it, nothing else shows that it is taken: the
    process of another container could be given it, listen first, and be called in its place. A socket without a file
    reserves it for all nodes on this machine, and the kernel gives it back however its holder ends. Only Linux has
    such sockets.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
        port = int(probe.getsockname()[1])
        _check_ipv6(port)
    if sys.platform != "linux":
        return nullcontext(), port
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        holder.bind(f"\0nodekit-port-{port}")
    except OSError:
        holder.close()
        raise
    return holder, port


def _check_ipv6(port: int) -> None:
    """Raise `OSError` if somebody is at the port of the other loopback address. Some programs listen there."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:  # otherwise there is no IPv6
            raise


def _first_outgoing_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 0
