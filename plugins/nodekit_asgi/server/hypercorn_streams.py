"""Applications that answer requests of hypercorn's connections, and the messages that wait for them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from hypercorn.config import Config
from hypercorn.typing import ASGIReceiveEvent, ASGISendEvent, Scope

BODY_AHEAD_BYTES = 1 << 16
"""Bytes of a body that may wait for the application; then no more is read from the connection."""

Send = Callable[[ASGISendEvent | None], Awaitable[None]]
Taken = Callable[[int], Awaitable[None]]


class Inbox:
    """Messages that wait for an application: a body, and the disconnect.

    It takes the place of hypercorn's queue. That one counts pieces, however small, and blocks who reports a disconnect
    while it is full.
    """

    def __init__(self, taken: Taken | None = None) -> None:
        """`taken` is called with each number of bytes that the application has received; then `put` never waits."""
        self._taken = taken
        self._body = bytearray()
        self._changed = False
        self._more = True
        self._gone = False
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()

    def discard(self) -> int:
        """Forget the body that waits. Return its size."""
        size, self._body, self._changed = len(self._body), bytearray(), False
        return size

    async def put(self, message: ASGIReceiveEvent) -> None:
        if message["type"] == "http.request":
            self._body += message["body"]
            self._more = message["more_body"]
            self._changed = True
        else:
            self._gone = True
            self._room.set()
        self._arrived.set()
        while self._taken is None and len(self._body) > BODY_AHEAD_BYTES and not self._gone:
            self._room.clear()
            await self._room.wait()

    def arrived(self) -> bytes | None:
        """Return the whole body if it has arrived and nobody has received any of it; otherwise None."""
        if self._more or not self._changed or self._gone or self._taken is not None:
            return None
        body, self._body, self._changed = bytes(self._body), bytearray(), False
        self._room.set()
        return body

    async def get(self) -> Any:
        while not (self._changed or self._gone):
            self._arrived.clear()
            await self._arrived.wait()
        if not self._changed:
            return {"type": "http.disconnect"}
        body, self._body, self._changed = bytes(self._body), bytearray(), False
        self._room.set()
        if self._taken is not None and body:
            await self._taken(len(body))
        return {"type": "http.request", "body": body, "more_body": self._more}


class Applications:
    """Starts applications in the task group of a connection, where hypercorn's streams expect one of its own."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        self.running = 0
        """Applications that have not ended; those of requests that were given up count, too."""

    async def spawn_app(
        self, app: Any, config: Config, scope: Scope, send: Send, inbox: Inbox | None = None
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        inbox = inbox or Inbox()
        scope["extensions"] = {}  # type: ignore[typeddict-unknown-key]
        self.start(app, scope, inbox, send)
        return inbox.put

    def start(self, app: Any, scope: Any, inbox: Inbox, send: Send) -> None:
        """Start an application. Once it has ended, None is sent."""
        self.running += 1
        self.spawn(self._run, app, scope, inbox.get, send)

    def spawn(self, work: Callable[..., Any], *arguments: Any) -> None:
        self._tasks.create_task(work(*arguments))

    async def _run(self, app: Any, scope: Scope, receive: Callable[[], Awaitable[Any]], send: Send) -> None:
        try:
            await app(scope, receive, send)
        except Exception:  # noqa: S110 - the app has logged it; the reply is left open, so the connection is cut
            pass
        finally:
            self.running -= 1
            await send(None)
