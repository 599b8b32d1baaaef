"""A server for one ASGI application: HTTP/1.1 by h11, on the event loop that anyio runs on."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from typing import Any, TypeAlias
from urllib.parse import unquote

import anyio
import h11
from anyio.abc import Listener, SocketAttribute, SocketStream
from anyio.lowlevel import checkpoint

Message: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

READ_BYTES = 65536
GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


class Server:
    """A server that accepts clients until `stop` is called."""

    def __init__(self, app: App, *, idle_seconds: float, stop_seconds: float) -> None:
        self.app = app
        self._idle_seconds = idle_seconds
        self._stop_seconds = stop_seconds
        self._stop = anyio.Event()
        self._waiting: set[anyio.CancelScope] = set()

    def stop(self) -> None:
        self._stop.set()

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    async def run(self, listener: Listener[SocketStream]) -> None:
        """Serve until `stop` is called; replies then have `stop_seconds` to end. Cancelling does not cut them short."""
        with anyio.CancelScope(shield=True) as scope:
            async with anyio.create_task_group() as connections:
                async with listener, anyio.create_task_group() as accepting:
                    accepting.start_soon(listener.serve, self._connected, connections)
                    await self._stop.wait()
                    accepting.cancel_scope.cancel()
                for waiting in self._waiting:
                    waiting.cancel()
                scope.deadline = anyio.current_time() + self._stop_seconds

    async def _connected(self, stream: SocketStream) -> None:
        async with stream:
            with suppress(Exception):  # the application has logged it; only the connection is left to close
                await Connection(self, stream).serve()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Limit the wait for a client that is not owed a reply. The wait also ends when the server stops."""
        with anyio.move_on_after(self._idle_seconds) as scope:
            self._waiting.add(scope)
            try:
                yield
            finally:
                self._waiting.discard(scope)


class Connection:
    """The connection of one client, which handles one request after another."""

    def __init__(self, server: Server, stream: SocketStream) -> None:
        self._server = server
        self._stream = stream
        self._http = h11.Connection(h11.SERVER)
        self._method = b""
        self._gone = False

    async def serve(self) -> None:
        while (head := await self._next_head()) is not None:
            self._method = head.method
            await self._server.app(self._scope(head), self._receive, self._send)
            if self._http.their_state is h11.SEND_BODY:  # the application has not read the whole body
                self._http.next_event()
            if self._gone or self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()

    async def _next_head(self) -> h11.Request | None:
        """Read the head of the next request. Return None if the client has gone or is too slow, or the server stops."""
        if self._server.stopping:
            return None
        try:
            with self._server.waiting():
                event = await self._next_event()
                return event if isinstance(event, h11.Request) else None
        except h11.RemoteProtocolError as error:
            await self._refuse(error)
        return None

    async def _next_event(self) -> "h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]":
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                await self._write(h11.InformationalResponse(status_code=100, headers=[]))
            await self._read()
        return event

    async def _read(self) -> None:
        try:
            data = await self._stream.receive(READ_BYTES)
        except GONE:
            data, self._gone = b"", True
        self._http.receive_data(data)

    async def _refuse(self, error: h11.RemoteProtocolError) -> None:
        """Answer bytes that are not HTTP with an error. They never reach the application."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [("content-type", "text/plain"), ("connection", "close")]
            await self._write(h11.Response(status_code=error.error_status_hint, headers=headers))
            await self._write(h11.Data(data=f"{error}\n".encode()))
            await self._write(h11.EndOfMessage())

    # -- what the application calls ---------------------------------------------------------------

    def _scope(self, head: h11.Request) -> Message:
        path, _, query = head.target.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": head.http_version.decode(),
            "method": head.method.decode(),
            "scheme": "http",
            "path": unquote(path.decode("latin-1")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": [*head.headers],
            "client": self._stream.extra(SocketAttribute.remote_address),
            "server": self._stream.extra(SocketAttribute.local_address),
        }

    async def _receive(self) -> Message:
        """Return the next piece of the body; after its end, wait until the client has gone and report that."""
        if self._http.their_state is h11.SEND_BODY:
            with suppress(h11.RemoteProtocolError):
                event = await self._next_event()
                if isinstance(event, h11.Data):
                    return {"type": "http.request", "body": bytes(event.data), "more_body": True}
                if isinstance(event, h11.EndOfMessage):
                    return {"type": "http.request", "body": b"", "more_body": False}
            return {"type": "http.disconnect"}  # the body broke off, or is not valid
        while not self._gone:
            if len(self._http.trailing_data[0]) < READ_BYTES:  # a client may send its next requests ahead
                await self._read()
            else:
                await anyio.sleep_forever()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message["headers"], (b"date", formatdate(usegmt=True).encode())]
            if self._server.stopping:
                headers.append((b"connection", b"close"))
            await self._write(h11.Response(status_code=message["status"], headers=headers))
            return
        if message.get("body") and self._method != b"HEAD":
            await self._write(h11.Data(data=message["body"]))
        if not message.get("more_body"):
            await self._write(h11.EndOfMessage())

    async def _write(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if not data or self._gone:
            await checkpoint()
            return
        try:
            await self._stream.send(data)  # waits while the client reads slowly
        except GONE:
            self._gone = True
