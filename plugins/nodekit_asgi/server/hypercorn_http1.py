"""HTTP/1.1 on hypercorn's connections, with h11 as hypercorn has it, and without upgrades.

It serves one request after the other, and none of a client that has gone.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import h11
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.typing import ConnectionState, WorkerContext

from nodekit_asgi.http.access import refused
from nodekit_asgi.server.deadlines import ConnectionDeadlines
from nodekit_asgi.server.hypercorn_exchange import Address, Exchange, date_header
from nodekit_asgi.server.hypercorn_streams import Applications
from nodekit_asgi.server.refusals import (
    HEADER_BYTES,
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

PREFACE = b"PRI * HTTP/2.0\r\n\r\n"
"""The beginning of HTTP/2, as far as it looks like a request."""


PIECES_IN_A_TURN = 50
"""Chunks of a body that are read before others have their turn; they take about a millisecond."""


class Http2Begins(Exception):
    """The client speaks HTTP/2 and has sent this."""

    def __init__(self, data: bytes) -> None:
        self.data = data


class Http1:
    """The requests of one connection."""

    def __init__(
        self,
        deadlines: ConnectionDeadlines,
        app: Any,
        config: Config,
        context: WorkerContext,
        applications: Applications,
        state: ConnectionState,
        client: Address,
        server: Address,
        send: Callable[[Event], Awaitable[None]],
        *,
        http2: bool,
    ) -> None:
        self.connection = h11.Connection(h11.SERVER, max_incomplete_event_size=config.h11_max_incomplete_size)
        self._deadlines = deadlines
        self._app, self._context, self._applications, self._state = app, context, applications, state
        self._client, self._server = client, server
        self._send = send
        self._http2 = http2
        self._exchange: Exchange | None = None
        """The request that is being answered."""
        self._next = asyncio.Event()
        """Set when a request was answered, so that the next one can be read."""
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
            await self._close_exchange()
            self._next.set()

    def last_words(self) -> bytes:
        """Return what the client is told that has not sent a whole head in time."""
        if not self.connection.trailing_data[0] or self.connection.our_state is not h11.IDLE:
            return b""
        self._is_late = True
        refused(self._client, LATE[0], len(refusal_body(LATE)))
        return refusal_reply(LATE)

    async def _handle_events(self) -> None:
        pieces = 0
        while not self._gone and self.connection.their_state not in (h11.MUST_CLOSE, h11.CLOSED):
            if self.connection.they_are_waiting_for_100_continue:
                await self.write(self.encoded(h11.InformationalResponse(status_code=100, headers=[date_header()])))
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
                self._begin(event)
            elif event is h11.PAUSED:
                self._next.clear()
                await self._next.wait()
            elif isinstance(event, h11.Data) and self._exchange is not None:
                body = bytes(event.data)
                await self._exchange.inbox.put({"type": "http.request", "body": body, "more_body": True})
                if (pieces := pieces + 1) % PIECES_IN_A_TURN == 0:
                    await asyncio.sleep(0)
            elif isinstance(event, h11.EndOfMessage) and self._exchange is not None:
                await self._exchange.inbox.put({"type": "http.request", "body": b"", "more_body": False})
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
        # h11 limits only a head that is not complete yet, and a read may bring more than that at once.
        size = len(request.target) + sum(len(name) + len(value) + 4 for name, value in request.headers)
        return TOO_LARGE if len(request.headers) > MAX_HEADERS or size > HEADER_BYTES else None

    async def _refuse(self, refusal: Refusal) -> None:
        """Reply, unless a reply has begun, and end the connection."""
        if self.connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            if not self._is_late:  # it was told that, and the connection has ended
                refused(self._client, refusal[0], 0 if self._without_body else len(refusal_body(refusal)))
            headers = [*refusal_headers(refusal), date_header()]
            reply = self.encoded(h11.Response(status_code=refusal[0], headers=headers))
            if not self._without_body:
                reply += self.encoded(h11.Data(data=refusal_body(refusal)))
            await self.write(reply + self.encoded(h11.EndOfMessage()))
        await self._send(Closed())

    def _begin(self, request: h11.Request) -> None:
        """Start the application. Whatever the request offers to upgrade to is ignored (RFC 9110, 7.8)."""
        self._exchange = exchange = Exchange(self, request)
        scope = exchange.scope(request, self._client, self._server, self._state)
        self._applications.start(self._app, scope, exchange.inbox, exchange.send)

    # -- for the exchange ---------------------------------------------------------------------------

    def encoded(self, event: h11.Response | h11.InformationalResponse | h11.Data | h11.EndOfMessage) -> bytes:
        """Return the bytes of a part of a reply; none after a request that could not be parsed."""
        try:
            return self.connection.send(event) or b""
        except h11.LocalProtocolError:
            if self.connection.their_state is not h11.ERROR:
                raise
            return b""

    async def write(self, data: bytes) -> None:
        """Write to the client, and wait while it does not read."""
        await self._send(RawData(data))

    async def recycle(self) -> None:
        """End the exchange, and the connection too unless both sides are done and may go on."""
        await self._close_exchange()
        done = self.connection.our_state is h11.DONE and self.connection.their_state is h11.DONE
        if self._gone or not done or self._context.terminated.is_set():
            self._next.set()
            await self._send(Closed())
            return
        self.connection.start_next_cycle()
        if self.connection.trailing_data[0]:
            self._deadlines.head_due()
        else:
            self._deadlines.resting()
        self._next.set()

    async def _close_exchange(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            await exchange.close()
