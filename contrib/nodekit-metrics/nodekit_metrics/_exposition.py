"""The page that Prometheus reads, as an ASGI application."""

import gzip
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import parse_qs

import anyio
import anyio.to_thread
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder, gzip_accepted

FASTEST = 1
"""The fastest level of gzip. A smaller reply is not worth more of the node's time."""


class Exposition:
    """An application that replies with all metrics, in the requested format and compression; ``?name[]=`` selects some.

    Each reply is written in a thread while the node goes on, for one reader after another. `look` is awaited before.
    """

    def __init__(self, registry: CollectorRegistry, look: Callable[[], Awaitable[None]]) -> None:
        self._registry = registry
        self._look = look
        self._turn = anyio.Lock()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"].removeprefix(scope.get("root_path", "")) != "/":
            await _reply(send, 404, [(b"content-type", b"text/plain")], b"no such page\n")
        elif scope["method"] not in ("GET", "HEAD"):
            headers = [(b"content-type", b"text/plain"), (b"allow", b"GET, HEAD")]
            await _reply(send, 405, headers, b"GET it\n")
        else:
            async with self._turn:
                await self._look()
                headers, body = await anyio.to_thread.run_sync(self._written, scope)
            await _reply(send, 200, headers, body, head=scope["method"] == "HEAD")

    def _written(self, scope: Any) -> tuple[list[tuple[bytes, bytes]], bytes]:
        accept, encodings = (_joined(scope, name) for name in (b"accept", b"accept-encoding"))
        names = parse_qs(scope["query_string"].decode("latin-1")).get("name[]")
        registry: Any = self._registry.restricted_registry(names) if names else self._registry
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # an invalid version in the Accept header
            encode, content_type = choose_encoder("")
        body = encode(registry)
        headers = [(b"content-type", content_type.encode()), (b"vary", b"accept, accept-encoding")]
        if gzip_accepted(encodings):
            headers.append((b"content-encoding", b"gzip"))
            body = gzip.compress(body, FASTEST)
        return headers, body


def _joined(scope: Any, wanted: bytes) -> str:
    return ",".join(value.decode("latin-1") for name, value in scope["headers"] if name.lower() == wanted)


async def _reply(
    send: Any, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes, *, head: bool = False
) -> None:
    headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else body})
