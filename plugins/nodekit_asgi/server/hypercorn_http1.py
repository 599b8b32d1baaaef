"""hypercorn's HTTP/1.1, without upgrades. It serves one request after the other, and none of a client that has gone."""

import asyncio
from typing import Any

import h11
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.events import Body, EndBody, Request
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream

from nodekit_asgi.http.access import refused
from nodekit_asgi.server.deadlines import ConnectionDeadlines
from nodekit_asgi.server.refusals import (
    LATE,
    MAX_HEADERS,
    NO_TUNNEL,
    TOO_LARGE,
    VERSION,
    Refusal,
    refusal_body,
    refusal_headers,
    refusal_of,
    refusal_reply,
)
from nodekit_asgi.server.targets import origin_form

PREFACE = b"PRI * HTTP/2.0\r\n\r\n"
"""The beginning of HTTP/2, as far as it looks like a request."""


PIECES_IN_A_TURN = 50
"""Chunks of a body that are read before others have their turn; they take about a millisecond."""


class Http2Begins(Exception):
    """The client speaks HTTP/2 and has sent this."""

    def __init__(self, data: bytes) -> None:
        self.data = data


class Http1(H11Protocol):
    """The requests of one connection."""

    connection: h11.Connection  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, deadlines: ConnectionDeadlines, *arguments: Any, http2: bool) -> None:
        super().__init__(*arguments)
        self._deadlines = deadlines
        self._http2 = http2
        self._gone = self._is_late = False
        self._without_body = False
        """True if the request is a HEAD, whose reply has no body."""

    async def handle(self, event: Event) -> None:
        """Take bytes, or the end of the connection. Raise `Http2Begins` if that is allowed."""
        if isinstance(event, RawData):
            if self.connection.their_state in (h11.MUST_CLOSE, h11.CLOSED, h11.ERROR):
                return  # whatever follows the last request
            if self._deadlines.is_resting:
                self._deadlines.head_due()
            self.connection.receive_data(event.data)
            await self._handle_events()
        elif isinstance(event, Closed):
            self._gone = True
            if self.stream is not None:
                await self._close_stream()
            await self.can_read.set()

    def last_words(self) -> bytes:
        """Return what the client is told that has not sent a whole head in time."""
        if not self.connection.trailing_data[0] or self.connection.our_state is not h11.IDLE:
            return b""
        self._is_late = True
        refused(self.client, LATE[0])
        return refusal_reply(LATE)

    async def _handle_events(self) -> None:
        pieces = 0
        while not self._gone and self.connection.their_state not in (h11.MUST_CLOSE, h11.CLOSED):
            if self.connection.they_are_waiting_for_100_continue:
                await self._send_h11_event(
                    h11.InformationalResponse(status_code=100, headers=self.config.response_headers("h11"))
                )
            try:
                event = self.connection.next_event()
            except h11.RemoteProtocolError as error:
                await self._refuse(refusal_of(error.error_status_hint))
                return
            if isinstance(event, h11.Request):
                self._deadlines.working()
                if (refusal := self._refusal(event)) is not None:
                    await self._refuse(refusal)
                    return
                await self._create_stream(event)
            elif event is h11.PAUSED:
                await self.can_read.clear()
                await self.can_read.wait()
            elif isinstance(event, h11.Data) and self.stream is not None:
                await self.stream.handle(Body(STREAM_ID, bytes(event.data)))
                if (pieces := pieces + 1) % PIECES_IN_A_TURN == 0:
                    await asyncio.sleep(0)
            elif isinstance(event, h11.EndOfMessage) and self.stream is not None:
                await self.stream.handle(EndBody(STREAM_ID))
            else:
                return

    def _refusal(self, request: h11.Request) -> Refusal | None:
        self._without_body = request.method == b"HEAD"
        if request.http_version not in (b"1.0", b"1.1"):
            if self._http2 and (request.method, request.target, request.http_version) == (b"PRI", b"*", b"2.0"):
                raise Http2Begins(PREFACE + self.connection.trailing_data[0])
            return VERSION
        if request.method == b"CONNECT":
            return NO_TUNNEL
        return TOO_LARGE if len(request.headers) > MAX_HEADERS else None

    async def _refuse(self, refusal: Refusal) -> None:
        """Reply, unless a reply has begun, and end the connection."""
        if self.connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            if not self._is_late:  # it was told that, and the connection has ended
                refused(self.client, refusal[0])
            headers = [*refusal_headers(refusal), *self.config.response_headers("h11")]
            await self._send_h11_event(h11.Response(status_code=refusal[0], headers=headers))
            if not self._without_body:
                await self._send_h11_event(h11.Data(data=refusal_body(refusal)))
            await self._send_h11_event(h11.EndOfMessage())
        await self.send(Closed())

    async def _create_stream(self, request: h11.Request) -> None:
        """Start the application. Whatever the request offers to upgrade to is ignored (RFC 9110, 7.8)."""
        self.stream = HTTPStream(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        target, headers = origin_form(request.target, list(request.headers))
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=[*headers],
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii").upper(),
                raw_path=target,
                state=self.connection_state,
            )
        )

    async def _maybe_recycle(self) -> None:
        await self._close_stream()
        done = self.connection.our_state is h11.DONE and self.connection.their_state is h11.DONE
        if self._gone or not done or self.context.terminated.is_set():
            await self.can_read.set()
            await self.send(Closed())
            return
        self.connection.start_next_cycle()
        if self.connection.trailing_data[0]:
            self._deadlines.head_due()
        else:
            self._deadlines.resting()
        await self.can_read.set()
