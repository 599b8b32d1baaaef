"""uvicorn's HTTP/1.1 protocol (httptools), with the header limit that it lacks. Imported only if uvicorn serves."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from nodekit_asgi.server.disconnects import LOOK_SECONDS, has_gone

HEADER_BYTES = 1 << 16


def _reply(status: str, text: str) -> bytes:
    body = b'{"error":"%s"}' % text.encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close"
    return head.encode() + b"\r\n\r\n" + body


_TOO_LARGE = _reply("431 Request Header Fields Too Large", "the headers are too large")
_UPGRADE = _reply("400 Bad Request", "Upgrade: is not supported; send the request without it")


class BoundedHttpTools(HttpToolsProtocol):
    """A protocol that ends a connection if its headers are too large or it asks for another protocol.

    After an upgrade that is not made, the parser would read the following bytes, such as a body, as another request.
    """

    _head_bytes = 0
    _in_body = False
    _unanswered: tuple[RequestResponseCycle, ...] = ()
    """Pipelined requests without a reply. uvicorn reports a disconnect only to the last of them."""

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if not self._in_body:
            self._head_bytes += len(data)
        super().data_received(data)
        if not self._in_body and self._head_bytes > HEADER_BYTES:
            self._refuse(_TOO_LARGE)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_body:  # trailers are ignored
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_body, self._head_bytes = True, 0
        if self.parser is not None and self.parser.should_upgrade():
            self._refuse(_UPGRADE)
        else:
            before = self.cycle
            super().on_headers_complete()
            if self.pipeline:
                self._unanswered = (*(self._unanswered or (before,)), self.cycle)
                if len(self._unanswered) == 2:
                    self.loop.call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """Check whether the client has gone. Reading is paused while a request waits, so it would not show that."""
        self._unanswered = tuple(cycle for cycle in self._unanswered if not cycle.response_complete)
        if not self._unanswered or self.transport.is_closing():
            return
        if has_gone(self.transport.get_extra_info("socket")):
            self.transport.abort()
        else:
            self.loop.call_later(LOOK_SECONDS, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()

    def on_body(self, body: bytes) -> None:
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        if not self.transport.is_closing():
            super().on_message_complete()

    def _refuse(self, reply: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(reply)
            self.transport.close()
