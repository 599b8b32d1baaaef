"""uvicorn's HTTP/1.1 protocol (httptools), with the limits and deadlines that it lacks, and without upgrades.

Imported only if uvicorn serves.
"""

import asyncio
from typing import Any, cast
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from nodekit_asgi.http.access import refused
from nodekit_asgi.server.deadlines import ConnectionDeadlines, CountingTransport, Deadlines, Late, peer_address
from nodekit_asgi.server.disconnects import LOOK_SECONDS, has_gone
from nodekit_asgi.server.refusals import (
    HEADER_BYTES,
    LATE,
    MALFORMED,
    MAX_HEADERS,
    NO_TUNNEL,
    TOO_LARGE,
    VERSION,
    Refusal,
    refusal_body,
    refusal_reply,
)
from nodekit_asgi.server.targets import origin_form
from nodekit_asgi.server.uvicorn_exchange import Exchange

READ_BYTES = 1 << 14
"""Bytes read at once: parsing the smallest chunks takes a few milliseconds then, and other connections have to wait."""
BODY_READ_BYTES = 1 << 16
"""Bytes read at once of a body whose length is known, which costs little. As many may wait behind a request."""
PART_BYTES = 1024
"""Bytes of a body that are parsed at once, if it may end among them: few requests can follow it."""


class BoundedHttpTools(HttpToolsProtocol):
    """The requests of one connection.

    Requests that a client sends ahead are parsed one by one, as the replies before them are sent. What follows is held
    as bytes, and no more is read: a parsed request takes a hundred times as much memory.
    """

    app: Any
    flow: "_Flow"
    cycle: Exchange  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, all_deadlines: Deadlines, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._all_deadlines = all_deadlines
        self._deadlines: ConnectionDeadlines
        self._in_head = self._in_body = False
        self._unmeasured = 0
        """Bytes of the head of a request or, amid its body, of chunk heads and trailers since the last body bytes."""
        self._body_left = 0
        """Bytes of the body that Content-Length promises and that have not come yet."""
        self._held, self._held_from = b"", 0
        """Bytes that were read, and the first of them that waits for the reply to the request before it."""
        self._upgrades = False
        """True while the head of a request is skipped that offers an upgrade."""
        self._refusal: Refusal | None = None
        """The reply to what the client sent last. Nothing that follows is read."""
        self._unanswered: tuple[Exchange, ...] = ()
        """The request that is being answered and those behind it. uvicorn reports a disconnect only to the last one."""

    # -- the connection -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._deadlines = ConnectionDeadlines(self._all_deadlines, transport, self._late)
        self._raw_transport = transport
        self._read_at_once(READ_BYTES)
        super().connection_made(cast(asyncio.Transport, CountingTransport(transport, self._deadlines)))
        self.flow = _Flow(self.transport)  # pyright: ignore[reportIncompatibleVariableOverride]
        try:
            self.client = peer_address(transport)
        except OSError:  # nobody is there any more
            self.transport.abort()

    def _read_at_once(self, size: int) -> None:
        if hasattr(self._raw_transport, "max_size"):  # of asyncio, not of uvloop
            cast(Any, self._raw_transport).max_size = size

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._deadlines.ended()
        self._held = b""
        for exchange in {self.cycle, *self._unanswered} - {None}:
            exchange.lost()

    def _late(self, late: Late) -> None:
        if late is Late.READING:
            self.transport.abort()
        elif not self.transport.is_closing():
            if late is Late.HEAD and self._in_head:
                self._write_refusal(LATE)
            self.transport.close()

    # -- bytes --------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None or self.transport.is_closing():
            return
        if self._deadlines.is_resting:
            self._deadlines.head_due()
        self._parse(self._held[self._held_from :] + data if self._held else data, 0)

    def _parse(self, data: bytes, start: int) -> None:
        """Parse from `start`, until a request waits for another one's reply. Then hold the rest, and read no more."""
        self._held = b""
        while start < len(data) and self._refusal is None and not self.transport.is_closing():
            if self.pipeline:
                self._held, self._held_from = data, start
                break
            end = self._end_of_part(data, start)
            if not self._in_body and self._unmeasured + end - start > HEADER_BYTES:
                self._refuse(TOO_LARGE)
                break
            self._parse_part(data[start:end] if start or end < len(data) else data)
            start = end
        self.flow.hold(bool(self._held))

    def _end_of_part(self, data: bytes, start: int) -> int:
        """Return the end of a part in which few requests end: every head ends in an empty line."""
        if self._in_body and self._body_left >= len(data) - start:
            return len(data)
        if self._in_body:
            return start + PART_BYTES
        end = at + 3 if (at := data.find(b"\n\r\n", start)) >= 0 else len(data)
        return at + 2 if (at := data.find(b"\n\n", start, end)) >= 0 else end

    def _parse_part(self, data: bytes) -> None:
        self._unmeasured += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._refusal is None:
                self._parse_without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(VERSION if self.parser.get_method() == b"PRI" else MALFORMED)
        if self._unmeasured > HEADER_BYTES and self._refusal is None:
            self._refuse(TOO_LARGE)

    def _parse_without_upgrade(self, rest: bytes) -> None:
        """Parse a request again without its offer to upgrade, which is ignored (RFC 9110, 7.8).

        After the head of such a request, the parser would take the bytes of its body for another request.
        """
        lines = [self.scope["method"].encode() + b" " + self.url + b" HTTP/" + self.scope["http_version"].encode()]
        lines += [name + b": " + value for name, value in self.headers if name not in (b"upgrade", b"http2-settings")]
        self._upgrades, self._in_body, self._unmeasured = False, False, 0
        if any(b"\r" in line or b"\n" in line for line in lines):
            self._refuse(MALFORMED)
            return
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._parse_part(b"\r\n".join([*lines, b"", b""]) + rest)

    # -- callbacks of the parser --------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:
            return  # trailers are ignored
        name = name.lower()
        self.headers.append((name, value))
        if len(self.headers) > MAX_HEADERS:
            self._refuse(TOO_LARGE)
        elif name == b"content-length":
            self._body_left = int(value) if value.isdigit() else 0
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True

    def on_message_begin(self) -> None:
        self._in_head, self._body_left = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head, self._in_body, self._unmeasured = False, True, 0
        if self._refusal is not None:
            return
        if self.parser.get_method() == b"CONNECT":
            self._refuse(NO_TUNNEL)
        elif self.parser.get_http_version() not in ("1.0", "1.1"):
            self._refuse(VERSION)
        elif self.parser.should_upgrade():
            self.scope["method"] = self.parser.get_method().decode("ascii")
            self.scope["http_version"] = self.parser.get_http_version()
            self._upgrades = True
        else:
            self._deadlines.working()
            if self._body_left > READ_BYTES:
                self._read_at_once(BODY_READ_BYTES)
            before = self.cycle
            if not self.url.startswith(b"/"):
                self._rewrite_target()
            self._begin()
            if self.pipeline:
                looks = bool(self._unanswered)
                ahead = [cycle for cycle in self._unanswered if not cycle.response_complete] or [before]
                self._unanswered = (*ahead, self.cycle)
                if not looks:
                    self.loop.call_later(LOOK_SECONDS, self._look)

    def _begin(self) -> None:
        """Begin the request whose head is complete. It takes the place of `on_headers_complete` of uvicorn."""
        url = httptools.parse_url(self.url)
        path, version = url.path.decode("ascii"), self.parser.get_http_version()
        scope: Any = self.scope
        scope["method"], scope["http_version"] = self.parser.get_method().decode("ascii"), version
        scope["path"], scope["raw_path"] = unquote(path) if "%" in path else path, url.path
        scope["query_string"] = url.query or b""
        before = cast("Exchange | None", self.cycle)
        self.cycle = Exchange(  # pyright: ignore[reportIncompatibleVariableOverride]
            self.tasks,
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self.cycle.start(self.loop, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _rewrite_target(self) -> None:
        """Replace a target in another form than that of a path."""
        self.url, headers = origin_form(self.url, self.headers)
        self.headers[:] = headers  # the list of the scope
        if self.url == b"*":
            self.url = b"/*"  # uvicorn takes nothing else for a path

    def on_body(self, body: bytes) -> None:
        self._unmeasured = 0
        self._body_left -= len(body)
        if self._refusal is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body, self._unmeasured = False, 0
        self._read_at_once(READ_BYTES)
        if self._refusal is not None or self._upgrades:
            return
        if self.cycle.response_complete:
            self._deadlines.resting()
        super().on_message_complete()

    # -- replies ------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """Begin the request that waits. It takes the place of uvicorn's, which starts a timer for each request."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.pipeline:
            exchange, app = self.pipeline.pop()
            cast(Exchange, exchange).start(self.loop, app)
        elif self._refusal is not None:
            self._refuse(self._refusal)
        elif self._in_body:  # the application has waited for the rest of it, in vain
            self.transport.close()
        elif self._in_head:
            self._deadlines.head_due()
        else:
            self._deadlines.resting()
        if self._held:
            self.loop.call_soon(self._go_on)
        else:
            self.flow.resume_reading()

    def _go_on(self) -> None:
        if self._held and not self.transport.is_closing():
            self._parse(self._held, self._held_from)
            if not self._held:
                self.flow.resume_reading()

    def _refuse(self, refusal: Refusal) -> None:
        """Reply, and end the connection; if a request is unanswered, once it is answered."""
        self._refusal, self._held = refusal, b""
        cycle = cast("Exchange | None", self.cycle)
        if cycle is not None and not cycle.response_complete:
            if cycle.more_body and self.pipeline:  # the body of a request is malformed that waits behind others
                self.pipeline.popleft()
            elif cycle.more_body:
                cycle.lost()
                if not cycle.response_started:
                    self._write_refusal(refusal)
                self.transport.close()
        elif not self.transport.is_closing():
            self._write_refusal(refusal)
            self.transport.close()

    def _write_refusal(self, refusal: Refusal) -> None:
        self.transport.write(refusal_reply(refusal))
        refused(self.client, refusal[0], len(refusal_body(refusal)))

    def _look(self) -> None:
        """Check whether the client has gone. Reading is paused while a request waits, so it would not show that."""
        self._unanswered = tuple(cycle for cycle in self._unanswered if not cycle.response_complete)
        if not self._unanswered or self.transport.is_closing():
            return
        if has_gone(self.transport.get_extra_info("socket")):
            self.transport.abort()
        else:
            self.loop.call_later(LOOK_SECONDS, self._look)


class _Flow(FlowControl):
    """Control of a connection that is not read while bytes are held."""

    _holds = False

    def hold(self, holds: bool) -> None:
        self._holds = holds
        if holds:
            self.pause_reading()

    def resume_reading(self) -> None:
        if not self._holds:
            super().resume_reading()
