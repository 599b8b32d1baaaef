"""One request over HTTP/1.1 and its reply, between h11 and an application. Imported only if hypercorn is the server.

It takes the place of hypercorn's stream, which makes three events and three writes of each reply.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache
from time import time
from typing import Any, Protocol
from urllib.parse import unquote
from wsgiref.handlers import format_date_time

import h11

from nodekit_asgi.http.extensions import ARRIVED, GONE
from nodekit_asgi.http.sending import check_headers
from nodekit_asgi.server.hypercorn_streams import Inbox
from nodekit_asgi.server.targets import origin_form

Address = tuple[str, int] | None
Header = tuple[bytes, bytes]

_WITHOUT_BODY = (204, 304)
_FRAMING = (b"content-length", b"transfer-encoding", b"connection")
_END = h11.EndOfMessage()
_FAILED: Sequence[Header] = ((b"content-length", b"0"), (b"connection", b"close"))


def date_header() -> Header:
    return _date_at(int(time()))


@lru_cache(2)
def _date_at(second: int) -> Header:
    return b"date", format_date_time(second).encode()


class ReplySide(Protocol):
    """The side of a connection that sends replies."""

    def encoded(self, event: Any) -> bytes:
        """Return the bytes of a part of a reply, an event of h11."""
        ...

    async def write(self, data: bytes) -> None:
        """Write to the client, and wait while it does not read."""

    async def recycle(self) -> None:
        """End the exchange, and the connection too unless both sides are done and may go on."""


class Exchange:
    """One request and its reply.

    A reply whose length is known goes out together with the first piece of its body: a write costs as much as a
    quarter of a small request.
    """

    def __init__(self, http: ReplySide, request: h11.Request) -> None:
        self._http = http
        self.inbox = Inbox()
        self.closed = False
        """True once nobody is there any more who waits for the reply."""
        self._without_body = request.method == b"HEAD"
        self._begun = self._complete = False
        self._notify: Callable[[], object] | None = None
        self._head = b""
        """The head of the reply, until it is written."""

    def scope(self, request: h11.Request, client: Address, server: Address, state: Any) -> dict[str, Any]:
        """Return the scope of the request, as in ASGI."""
        target, headers = origin_form(request.target, [*request.headers])
        raw_path, _, query = target.partition(b"?")
        path = raw_path.decode("ascii")
        return {
            "type": "http",
            "http_version": request.http_version.decode(),
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "method": request.method.decode("ascii").upper(),
            "scheme": "http",
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": headers,
            "client": client,
            "server": server,
            "state": state.copy(),
            "extensions": {ARRIVED: self.inbox.arrived, GONE: self.on_gone},
        }

    async def send(self, message: Any) -> None:
        """Send for the application, as in ASGI. None says that it has ended."""
        if message is None:
            await self._ended()
        elif message["type"] == "http.response.start" and not self._begun:
            await self._begin(message["status"], message.get("headers", ()))
        elif message["type"] == "http.response.body" and self._begun and not self._complete:
            await self._send_body(bytes(message.get("body", b"")), more=message.get("more_body", False))
        else:
            state = "a complete" if self._complete else "a begun" if self._begun else "no"
            raise RuntimeError(f"unexpected ASGI message {message['type']!r} after {state} reply")

    async def _begin(self, status: int, headers: Sequence[Header]) -> None:
        self._begun, self._without_body = True, self._without_body or status in _WITHOUT_BODY
        lines: list[Header] = [date_header()]
        framing: list[Header] = []
        for name, value in headers:
            (framing if name.lower() in _FRAMING else lines).append((name, value))
        check_headers(lines)
        head = self._http.encoded(h11.Response(status_code=status, headers=framing))
        if head:  # h11 looks at each header for long; of most it needs to know nothing
            head = b"".join([head[:-2], *(b"%b: %b\r\n" % line for line in lines), b"\r\n"])
        if any(name.lower() == b"content-length" for name, _ in framing):
            self._head = head
        else:  # its first piece may be long in coming
            await self._http.write(head)

    async def _send_body(self, body: bytes, *, more: bool) -> None:
        data, self._head = self._head, b""
        if body and not self._without_body:
            data += self._http.encoded(h11.Data(data=body))
        if not more:
            data += self._http.encoded(_END)
        if data:
            await self._http.write(data)
        else:
            await asyncio.sleep(0)
        if not more:
            self._complete = True
            await self._http.recycle()

    async def _ended(self) -> None:
        if self.closed:
            return
        if not self._begun:
            await self._begin(500, _FAILED)
            await self._send_body(b"", more=False)
        else:
            await self._http.recycle()  # it is not complete, which ends the connection

    def on_gone(self, notify: Callable[[], object] | None) -> None:
        """Set the function to call once the client has gone."""
        self._notify = notify
        if notify is not None and self.closed:
            notify()

    async def close(self) -> None:
        """Tell the application that nobody waits for its reply any more."""
        if not self.closed:
            self.closed = True
            if self._notify is not None:
                self._notify()
            await self.inbox.put({"type": "http.disconnect"})
