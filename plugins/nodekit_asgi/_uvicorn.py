"""uvicorn's HTTP/1.1 by httptools, with a limit on headers, which it lacks. Imported only where uvicorn serves."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_BYTES = 1 << 16
_BODY = b'{"error":"the headers are too large"}'
_REPLY = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%s" % (len(_BODY), _BODY)
)


class BoundedHttpTools(HttpToolsProtocol):
    """Ends a connection whose headers go on and on."""

    _head_bytes = 0
    _in_body = False

    def data_received(self, data: bytes) -> None:
        if not self._in_body:
            self._head_bytes += len(data)
        super().data_received(data)
        if not self._in_body and self._head_bytes > HEADER_BYTES and not self.transport.is_closing():
            self.transport.write(_REPLY)
            self.transport.close()

    def on_headers_complete(self) -> None:
        self._in_body, self._head_bytes = True, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()
