"""Free ports on loopback."""

import socket
from contextlib import suppress
from pathlib import Path
from random import SystemRandom

_LOWEST = 10_000
_TRIES = 100


def free_port() -> int:
    """A port that nobody listens on right now.

    It lies below the range from which the kernel takes ports for outgoing connections, where there is room: so no
    connection takes it before the process does, the probes of that very port included. Nor do programs that begin
    their random numbers at one seed choose the same ones.
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
