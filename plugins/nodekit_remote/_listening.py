"""The places at which programs listen for TCP, as the tables of a Linux kernel show them."""

import socket
import struct
from collections.abc import Collection, Sequence
from contextlib import suppress

MOST_PLACES = 8
"""Maximum number of places that a text names."""

_LISTEN = "0A"
"""State of a socket that listens, as the tables show it."""


def listening_places(tables: str, inodes: Collection[int] | None = None) -> list[str]:
    """Return where programs listen, such as ``127.0.0.1:8000`` and ``[::]:80``.

    `tables` are the texts of ``/proc/net/tcp`` and ``/proc/net/tcp6``. If `inodes` is given, only these sockets count.
    """
    found: set[str] = set()
    for line in tables.splitlines():
        with suppress(ValueError):  # the head of a table
            _, local, _, state, _, _, _, _, _, inode, *_ = line.split()
            if state == _LISTEN and (inodes is None or int(inode) in inodes):
                found.add(_place(local))
    return sorted(found)


def shown_places(places: Sequence[str]) -> str:
    """Return the places for a text; ``no port`` if there is none."""
    more = f" and {len(places) - MOST_PLACES} more" if len(places) > MOST_PLACES else ""
    return f"{', '.join(places[:MOST_PLACES])}{more}" if places else "no port"


def _place(shown: str) -> str:
    """Return ``host:port`` of an address as a table shows it: words of four bytes in the machine's order.

    Raise `ValueError` if it is none.
    """
    host, _, port = shown.partition(":")
    packed = b"".join(struct.pack("=I", int(host[at : at + 8], 16)) for at in range(0, len(host), 8))
    text = socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
    return f"[{text}]:{int(port, 16)}" if ":" in text else f"{text}:{int(port, 16)}"
