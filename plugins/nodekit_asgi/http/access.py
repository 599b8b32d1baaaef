"""The log of requests, a line for each: who asked for what, and what was answered. It is off unless it is wanted."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from nodekit_asgi.http.messages import HttpError, Request
from nodekit_asgi.http.networks import peer_name
from nodekit_asgi.http.sending import Send

access = logging.getLogger("nodekit.access")

LONGEST_TARGET = 1000
SHOWN = frozenset(
    ["id", "intermediate", "pending", "limit", "after", "wait", "status", "order", "container", "model_id"]
)
"""Parameters of a query whose values are logged. All others might be a secret: their names, too."""
HIDDEN = "..."

_LINE = '%s "%s %s" %s, %d bytes, %.1f ms (request %s)'


@contextmanager
def logged(request: Request, send: Send) -> Iterator[Send]:
    """Log the request once it is answered, or has failed. Yield what sends the reply. Use it if the log is wanted."""
    began = time.perf_counter()
    status, size = "-", 0

    async def counted(message: dict[str, Any]) -> None:
        nonlocal status, size
        await send(message)
        if message["type"] == "http.response.start":
            status = str(message["status"])
        size += len(message.get("body", b""))

    try:
        yield counted
    finally:
        _log(request.client, request.method, target(request), status, size, time.perf_counter() - began, request.id)


def refused(peer: Any, status: int, size: int) -> None:
    """Log a request that the server itself has refused, since its head is no valid HTTP or came too late.

    `size`: Bytes of the body of its reply.
    """
    if access_is_wanted():
        _log(peer_name(peer), "-", "-", str(status), size, 0.0, "-")


def access_is_wanted() -> bool:
    """Return True if this very logger has a level: an application that logs at INFO wants no line per request."""
    return access.level != logging.NOTSET and access.isEnabledFor(logging.INFO)


def _log(client: str, method: str, path: str, status: str, size: int, seconds: float, request_id: str) -> None:
    milliseconds = round(1000 * seconds, 1)
    fields = {
        "client": client,
        "method": method,
        "path": path,
        "status": int(status) if status.isdecimal() else None,
        "bytes": size,
        "milliseconds": milliseconds,
    }
    shown = client.replace(" ", "_").replace("\n", "_")
    access.info(_LINE, shown, method, path, status, size, milliseconds, request_id, extra=fields)


def target(request: Request) -> str:
    """Return the path and query of a request in ASCII and without spaces. Secrets in the query are not shown."""
    text = quote(request.path, safe="/:@!$&'()*+,;=~", errors="backslashreplace")
    if request.scope["query_string"]:
        text += f"?{_query(request)}"
    return text if len(text) <= LONGEST_TARGET else f"{text[:LONGEST_TARGET]}{HIDDEN}"


def _query(request: Request) -> str:
    try:
        pairs = request.query
    except HttpError:  # it is not valid
        return HIDDEN
    shown = [f"{name}={quote(value, safe='')}" if name in SHOWN else HIDDEN for name, value in pairs]
    return "&".join(dict.fromkeys(shown))
