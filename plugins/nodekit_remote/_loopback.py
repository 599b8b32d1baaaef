"""The two loopback addresses of a machine. Some programs listen at one of them only."""

import asyncio
import socket
from contextlib import suppress
from urllib.parse import urlsplit

import anyio

LOOPBACK = (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6))
LOOK_SECONDS = 0.5


async def elsewhere(url: str) -> str:
    """Return a hint if a program listens at the other loopback address than the one that the URL names, or ``""``."""
    parts = urlsplit(url)
    others = [address for address, _ in LOOPBACK if address != parts.hostname]
    if len(others) == len(LOOPBACK):
        return ""
    with suppress(OSError), anyio.move_on_after(LOOK_SECONDS):
        _, writer = await asyncio.open_connection(others[0], parts.port or (443 if parts.scheme == "https" else 80))
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return f"; a program listens at {others[0]} instead: let the URL name that address, or localhost"
    return ""
