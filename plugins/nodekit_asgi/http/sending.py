"""Sending: a body in pieces that wait for their client, and the check of headers."""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

PIECE_BYTES = 1 << 16
"""Largest piece that a server is given at once: it keeps a copy until the client has taken it."""

_NO_NAME = re.compile(rb"[^!#$%&\'*+.^_`|~0-9A-Za-z-]")
_NO_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

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


def check_headers(headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Raise `RuntimeError` for bytes in a header that would end it, or that have no place in it."""
    if _NO_NAME.search(b"".join([name for name, _ in headers])):
        raise RuntimeError("a header of the reply has an invalid name")
    if _NO_VALUE.search(b"".join([value for _, value in headers])):
        raise RuntimeError("a header of the reply has an invalid value")
