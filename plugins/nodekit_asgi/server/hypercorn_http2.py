"""HTTP/2 on hypercorn's connections.

hypercorn's own lets a client with a closed window fill the node's memory, reads bodies that nobody asked for, leaves
clients waiting for replies that broke off, and has no deadlines. Here a reply waits for its client's window, in the
application, and so does a body for its application.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.events import Body, EndBody, Request, Response, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.typing import ConnectionState, WorkerContext
from hypercorn.utils import filter_pseudo_headers

from nodekit_asgi.server.deadlines import ConnectionDeadlines, Deadlines, Reader
from nodekit_asgi.server.hypercorn_streams import Applications, Inbox
from nodekit_asgi.server.refusals import MAX_HEADERS

MAX_STREAMS = 100
"""Requests of one connection at a time; RFC 9113 advises against fewer."""
HEADER_LIST_BYTES = 1 << 16
FRAME_BYTES = 1 << 14
"""Largest frame of a reply, whatever the client takes: a longer one would delay other replies."""
BYTES_IN_A_TURN = 1 << 12
"""Bytes that are read before other connections have their turn; the smallest frames take some milliseconds then."""
HEADER_TABLE_BYTES = 4096
"""Memory for headers of replies that are not sent again; the client may ask for any size."""

_CONNECTION_HEADERS = (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")


class Connection(h2.connection.H2Connection):
    """The state of one connection."""

    MAX_CLOSED_STREAMS = 1000  # each is remembered; by default 65,536

    def __init__(self) -> None:
        super().__init__(h2.config.H2Configuration(client_side=False, header_encoding=None))
        self.decoder.max_header_list_size = HEADER_LIST_BYTES
        limits = {
            h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: HEADER_LIST_BYTES,
        }
        self.local_settings = h2.settings.Settings(client=False, initial_values=limits)

    @property
    def is_amid_a_frame(self) -> bool:
        """Return True if the client has sent a part of a frame, or of the headers of a request."""
        buffer: Any = self.incoming_buffer
        return bool(buffer._data or buffer._headers_buffer or buffer._preamble_len)

    @property
    def is_amid_a_large_frame(self) -> bool:
        """Return True if the frame of which a part has come is larger than allowed: h2 would wait for all of it."""
        buffer: Any = self.incoming_buffer
        begun = buffer._data
        return len(begun) >= 3 and int.from_bytes(begun[:3]) > self.max_inbound_frame_size

    def bound_header_table(self) -> None:
        """Keep the memory for headers small that the client has asked for, and the list of its changes short."""
        if self.encoder.header_table_size > HEADER_TABLE_BYTES:
            self.encoder.header_table_size = HEADER_TABLE_BYTES
        del self.encoder.table_size_changes[:-2]


class Stream:
    """One request and its reply. While the reply waits for the client's window, its reader has a deadline."""

    def __init__(self, id: int, http: HTTPStream, inbox: Inbox, reader: Reader, late: Callable[["Stream"], None]):
        self.id = id
        self.http = http
        self.inbox = inbox
        self.room = asyncio.Event()
        """Set when the client's window may have grown, or the stream has ended."""
        self.waits = False
        self.sent = 0
        self.reply_ended = self.request_ended = self.closed = False
        self._reader = reader
        self._late = late

    def check(self, now: float) -> None:
        if not self.waits:
            self._reader.has_all()
        elif self._reader.is_behind(self.sent, now):
            self._late(self)


class Http2:
    """The requests of one connection."""

    def __init__(
        self,
        deadlines: ConnectionDeadlines,
        all_deadlines: Deadlines,
        app: Any,
        config: Config,
        context: WorkerContext,
        applications: Applications,
        state: ConnectionState,
        client: tuple[str, int] | None,
        server: tuple[str, int] | None,
        send: Callable[[Event], Awaitable[None]],
    ) -> None:
        self._deadlines, self._all_deadlines = deadlines, all_deadlines
        self._app, self._config, self._context, self._applications = app, config, context, applications
        self._state, self._client, self._server = state, client, server
        self._send = send
        self._h2 = Connection()
        self._streams: dict[int, Stream] = {}
        self._turn = asyncio.Lock()
        """Held by the reply that sends a frame, so that only one of them is in memory."""
        self._leaving = False

    async def initiate(self) -> None:
        self._h2.initiate_connection()
        await self._flush()

    def last_words(self, code: h2.errors.ErrorCodes = h2.errors.ErrorCodes.NO_ERROR) -> bytes:
        """Return what ends the connection for the client."""
        try:
            self._h2.close_connection(code)
        except h2.exceptions.ProtocolError:
            return b""
        return self._h2.data_to_send()

    async def handle(self, event: Event) -> None:
        if isinstance(event, RawData):
            for start in range(0, len(event.data), BYTES_IN_A_TURN):
                if not await self._receive(event.data[start : start + BYTES_IN_A_TURN]):
                    await self._send(Closed())
                    return
                await asyncio.sleep(0)
        elif isinstance(event, Closed):
            for stream in [*self._streams.values()]:
                await self._close(stream)

    async def _receive(self, data: bytes) -> bool:
        """Handle bytes of the client. Return False if they end the connection."""
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.H2Error:
            await self._flush()
            return False
        for one in events:
            await self._handle_event(one)
        await self._flush()
        if self._h2.is_amid_a_large_frame:
            await self._send(RawData(self.last_words(h2.errors.ErrorCodes.FRAME_SIZE_ERROR)))
            return False
        self._set_deadline(progress=bool(events))
        return bool(self._streams) or not self._leaving

    # -- from the client ----------------------------------------------------------------------------

    async def _handle_event(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            await self._request(event)
        elif isinstance(event, h2.events.DataReceived):
            stream = self._streams.get(event.stream_id)
            used = len(event.data) if stream is not None else 0
            self._credit(event.stream_id, event.flow_controlled_length - used)  # padding, or for nobody
            if stream is not None and event.data:
                await stream.http.handle(Body(event.stream_id, event.data))
        elif isinstance(event, h2.events.StreamEnded):
            if (stream := self._streams.get(event.stream_id)) is not None:
                stream.request_ended = True
                await stream.http.handle(EndBody(event.stream_id))
        elif isinstance(event, h2.events.StreamReset):
            if (stream := self._streams.get(event.stream_id)) is not None:
                await self._close(stream)
        elif isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
            self._h2.bound_header_table()
            for stream in self._streams.values():
                stream.room.set()
        elif isinstance(event, h2.events.ConnectionTerminated):
            self._leaving = True

    async def _request(self, event: h2.events.RequestReceived) -> None:
        id, headers = event.stream_id, event.headers
        pseudo = {name: value for name, value in headers if name.startswith(b":")}
        method, path = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
        if self._context.terminated.is_set() or self._applications.running >= 2 * MAX_STREAMS:
            self._reset(id, h2.errors.ErrorCodes.REFUSED_STREAM)
        elif method == b"CONNECT":
            self._refuse(event, b"405")
        elif len(headers) > MAX_HEADERS:
            self._refuse(event, b"431")
        elif not path.isascii() or not method.isascii():
            self._refuse(event, b"400")
        else:
            stream = self._streams[id] = self._new_stream(id)
            self._all_deadlines.watch(stream)
            named = filter_pseudo_headers(headers)
            request = Request(id, named, "2", method.decode("ascii").upper(), path, self._state)
            await stream.http.handle(request)

    def _new_stream(self, id: int) -> Stream:
        async def taken(size: int) -> None:
            self._credit(id, size)
            await self._flush()

        inbox = Inbox(taken)
        tasks: Any = _Spawning(self._applications, inbox)
        http = HTTPStream(
            self._app, self._config, self._context, tasks, False, self._client, self._server, self._reply, id
        )
        return Stream(id, http, inbox, Reader(self._all_deadlines.pace), self._too_slow)

    def _refuse(self, event: h2.events.RequestReceived, status: bytes) -> None:
        self._h2.send_headers(event.stream_id, [(b":status", status), (b"content-length", b"0")], end_stream=True)
        if event.stream_ended is None:
            self._reset(event.stream_id, h2.errors.ErrorCodes.NO_ERROR)

    def _credit(self, id: int, size: int) -> None:
        """Let the client send so many bytes more."""
        if size > 0:
            self._h2.acknowledge_received_data(size, id)

    def _set_deadline(self, *, progress: bool) -> None:
        if self._h2.is_amid_a_frame:
            if progress or self._deadlines.is_resting or self._deadlines.is_working:
                self._deadlines.head_due()
        elif self._streams:
            self._deadlines.working()
        elif not self._deadlines.is_resting:
            self._deadlines.resting()

    # -- to the client ------------------------------------------------------------------------------

    async def _reply(self, event: StreamEvent) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:
            await asyncio.sleep(0)  # an application that only sends would not let others run
            return
        try:
            if isinstance(event, Response):
                headers = [(name.lower(), value) for name, value in event.headers]
                own = [header for header in headers if header[0] not in _CONNECTION_HEADERS]
                head = [(b":status", b"%d" % event.status_code), *own, *self._config.response_headers("h2")]
                self._h2.send_headers(stream.id, head)
                await self._flush()
            elif isinstance(event, Body):
                await self._write(stream, event.data)
            elif isinstance(event, EndBody) and not stream.closed:
                self._h2.end_stream(stream.id)
                stream.reply_ended = True
                await self._flush()
            elif isinstance(event, StreamClosed):
                await self._finish(stream)
        except h2.exceptions.ProtocolError:  # the stream or the connection has ended meanwhile
            await self._close(stream)

    async def _write(self, stream: Stream, data: bytes) -> None:
        rest = memoryview(data)
        while rest and not stream.closed:
            async with self._turn:
                room = 0 if stream.closed else min(self._h2.local_flow_control_window(stream.id), FRAME_BYTES)
                if room > 0:
                    self._h2.send_data(stream.id, rest[:room].tobytes())
                    rest = rest[room:]
                    stream.sent += room
                    await self._flush()
            if room <= 0 and not stream.closed:
                stream.room.clear()
                stream.waits = True
                await stream.room.wait()
                stream.waits = False

    async def _finish(self, stream: Stream) -> None:
        """Forget a stream whose application has ended. A reply that is not whole is reset, so that it shows."""
        await self._close(stream)
        if not stream.reply_ended:
            self._reset(stream.id, h2.errors.ErrorCodes.INTERNAL_ERROR)
        elif not stream.request_ended:
            self._reset(stream.id, h2.errors.ErrorCodes.NO_ERROR)
        if not self._streams and self._context.terminated.is_set():
            self._leaving = True
            self._h2.close_connection()
        await self._flush()
        if self._leaving and not self._streams:
            await self._send(Closed())

    async def _close(self, stream: Stream) -> None:
        """End a stream on this side: its application is told, and the room of its unread body is given back."""
        if not stream.closed:
            stream.closed = True
            del self._streams[stream.id]
            self._all_deadlines.forget(stream)
            stream.room.set()
            self._credit(stream.id, stream.inbox.discard())
            await stream.http.handle(StreamClosed(stream.id))
            self._set_deadline(progress=False)

    def _too_slow(self, stream: Stream) -> None:
        """Cut off a reader that takes too little. Other requests on the connection go on."""

        async def cut() -> None:
            self._reset(stream.id, h2.errors.ErrorCodes.CANCEL)
            await self._close(stream)
            await self._flush()

        if not stream.closed:
            self._applications.spawn(cut)

    def _reset(self, id: int, code: h2.errors.ErrorCodes) -> None:
        with suppress(h2.exceptions.ProtocolError):  # it has ended already
            self._h2.reset_stream(id, code)

    async def _flush(self) -> None:
        if data := self._h2.data_to_send():
            await self._send(RawData(data))


class _Spawning:
    """Starts the application of one request with an inbox of its own."""

    def __init__(self, applications: Applications, inbox: Inbox) -> None:
        self._applications, self._inbox = applications, inbox

    async def spawn_app(self, app: Any, config: Config, scope: Any, send: Any) -> Any:
        return await self._applications.spawn_app(app, config, scope, send, self._inbox)
