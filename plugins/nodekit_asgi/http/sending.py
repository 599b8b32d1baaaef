"""Sending a body in pieces that wait for their client."""

from collections.abc import Awaitable, Callable
from typing import Any

PIECE_BYTES = 1 << 16
"""Largest piece that a server is given at once: it keeps a copy until the client has taken it."""

Send = Callable[[dict[str, Any]], Awaitable[None]]


async def send_body(send: Send, body: bytes, *, more: bool) -> None:
    """Send a body, or a part of one. It returns once the client has taken all of it but a few pieces."""
    if len(body) > PIECE_BYTES:
        rest = memoryview(body)
        while len(rest) > PIECE_BYTES:
            await send({"type": "http.response.body", "body": bytes(rest[:PIECE_BYTES]), "more_body": True})
            rest = rest[PIECE_BYTES:]
        body = bytes(rest)
    await send({"type": "http.response.body", "body": body, "more_body": more})
