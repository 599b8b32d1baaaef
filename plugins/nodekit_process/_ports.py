"""Free ports on loopback."""

import socket
from contextlib import suppress
from pathlib import Path
from random import SystemRandom

_LOWEST = 10_000
_TRIES = 100


def free_port() -> int:
    """Return a port that no process listens on right now.

    If there is room, it lies below the range from which the kernel takes ports for outgoing connections. So no
    connection takes it before the process does, not even a probe of that very port. The system's random source keeps
    programs with the same random seed from choosing the same ports.
    """
    random = SystemRandom()
    below = _first_outgoing_port()
    candidates = [random.randrange(_LOWEST, below) for _ in range(_TRIES)] if below > 2 * _LOWEST else []
    for port in (*candidates, 0):
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise OSError("no port is free on 127.0.0.1")


def _first_outgoing_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 0
