"""One request of uvicorn and its reply. Imported only if uvicorn serves.

uvicorn's own writes the head of a reply and its body apart, looks at each header twice, and starts a callback for each
request that has ended. A write costs as much as a quarter of a small request.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from nodekit_asgi.http.extensions import ARRIVED, GONE
from nodekit_asgi.http.sending import check_headers

_WITHOUT_BODY = (204, 304)
_FRAMING = (b"content-length", b"transfer-encoding", b"connection")


class Exchange(RequestResponseCycle):
    """One request and its reply.

    A reply whose length is known goes out together with the first piece of its body.
    """

    task: "asyncio.Task[None]"

    def __init__(self, tasks: "set[asyncio.Task[None]]", **settings: Any) -> None:
        super().__init__(**settings)
        self._tasks = tasks
        self._notify: Callable[[], object] | None = None
        self._head = b""
        """The head of the reply, until it is written."""
        self._says_close = False
        self._offers: dict[str, Any] = {ARRIVED: self.arrived, GONE: self.on_gone}
        self.scope["extensions"] = self._offers

    def start(self, loop: asyncio.AbstractEventLoop, app: Any) -> None:
        self.task = loop.create_task(self.run_asgi(app))
        self._tasks.add(self.task)

    async def run_asgi(self, app: Any) -> None:
        try:
            await super().run_asgi(app)
        finally:
            self._tasks.discard(self.task)
            self._offers.clear()  # they lead back here: the request, and its body, would wait for the garbage collector

    def arrived(self) -> bytes | None:
        """Return the whole body if it has arrived and nobody has received any of it; otherwise None."""
        if self.more_body or self.disconnected or self.response_complete or not self.message_event.is_set():
            return None
        self.message_event.clear()
        self.flow.resume_reading()
        body, self.body = bytes(self.body), bytearray()
        return body

    def on_gone(self, notify: "Callable[[], object] | None") -> None:
        """Set the function to call once the client has gone."""
        self._notify = notify
        if notify is not None and self.disconnected:
            notify()

    def lost(self) -> None:
        """Tell the application that the client has gone."""
        self.disconnected = True
        self.message_event.set()
        if self._notify is not None:
            self._notify()

    async def send(self, message: Any) -> None:
        """Send for the application, as in ASGI."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if kind == "http.response.body" and self.response_started and not self.response_complete:
            self._send_body(message.get("body", b""), more=message.get("more_body", False))
        elif kind == "http.response.start" and not self.response_started:
            self._begin(message["status"], message.get("headers", ()))
        else:
            state = "a complete" if self.response_complete else "a begun" if self.response_started else "no"
            raise RuntimeError(f"unexpected ASGI message {kind!r} after {state} reply")

    def _begin(self, status: int, headers: Any) -> None:
        self.response_started, self.waiting_for_100_continue = True, False
        lines = [*self.default_headers, *headers]
        check_headers(lines)
        content = [STATUS_LINE[status]]
        for name, value in lines:
            if (lower := name.lower()) in _FRAMING:
                self._note(lower, value)
            content += (name, b": ", value, b"\r\n")
        if not self.keep_alive and not self._says_close:
            content.append(b"connection: close\r\n")
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in _WITHOUT_BODY:
            self.chunked_encoding = True
            content.append(b"transfer-encoding: chunked\r\n")
        content.append(b"\r\n")
        head = b"".join(content)
        if self.chunked_encoding:  # its first piece may be long in coming
            self.transport.write(head)
        else:
            self._head = head

    def _note(self, name: bytes, value: bytes) -> None:
        """Note what a header of the reply says of its length, and of the end of the connection."""
        if name == b"content-length" and self.chunked_encoding is None:
            self.expected_content_length, self.chunked_encoding = int(value), False
        elif name == b"transfer-encoding" and value.lower() == b"chunked":
            self.expected_content_length, self.chunked_encoding = 0, True
        elif name == b"connection" and b"close" in [token.strip() for token in value.lower().split(b",")]:
            self.keep_alive, self._says_close = False, True

    def _send_body(self, body: bytes, *, more: bool) -> None:
        if self.scope["method"] == "HEAD":
            body, self.expected_content_length = b"", 0
        elif self.chunked_encoding:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            body = body if more else body + b"0\r\n\r\n"
        elif len(body) > self.expected_content_length:
            raise RuntimeError("the body of the reply is longer than its Content-Length")
        else:
            self.expected_content_length -= len(body)
        if self._head:
            body, self._head = self._head + body, b""
        if body:
            self.transport.write(body)
        if not more:
            self._end()

    def _end(self) -> None:
        if self.expected_content_length != 0:
            raise RuntimeError("the body of the reply is shorter than its Content-Length")
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
