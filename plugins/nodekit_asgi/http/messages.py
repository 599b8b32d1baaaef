"""Requests and replies between ASGI and the handlers: one request in, one reply out."""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

import anyio
import msgspec
from msgspec import UNSET

from nodekit import COPIES, Budget, ClientId, GroupId, Identity, Reservation, counted, default_group
from nodekit_asgi.config import Limits
from nodekit_asgi.http.callers import Caller
from nodekit_asgi.http.codings import ACCEPTED, gunzipped, is_gzip
from nodekit_asgi.http.extensions import take_arrived
from nodekit_asgi.http.networks import peer_name, unmapped
from nodekit_asgi.http.pace import BodyPace
from nodekit_asgi.wire.node import WireErrorReply

Scope: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
Header: TypeAlias = tuple[bytes, bytes]

LINGER_BYTES = 1 << 28
_LENGTH_DIGITS = 18
LINGER_SECONDS = 10.0
LIVE: Sequence[Header] = ((b"cache-control", b"no-store"), (b"x-accel-buffering", b"no"))
"""Headers of a reply whose pieces no proxy may keep or hold back."""

_encode = msgspec.json.Encoder().encode


class Reply(msgspec.Struct, frozen=True):
    """A reply, with its `body` as a whole or in pieces.

    - `keep_alive`: Bytes that are sent from time to time while no piece comes.
    - `held`: Contexts that are left once the reply is sent or cannot be sent.
    """

    body: bytes | AsyncIterator[bytes]
    status: int = 200
    headers: Sequence[Header] = ()
    content_type: bytes = b"application/json"
    keep_alive: bytes = b""
    held: AsyncExitStack | None = None


class HttpError(Exception):
    """An error that ends a request with an error reply."""

    def __init__(
        self, status: int, text: str, *, params: Mapping[str, Any] | None = None, headers: Sequence[Header] = ()
    ) -> None:
        self.reply = error_reply(status, text, params, headers)
        super().__init__(text)


class CutShort(Exception):
    """A reply that has begun cannot be completed. The connection is cut, so that it does not look complete."""


class Disconnected(Exception):
    """The client has gone, so no reply can be sent."""


def json_reply(value: Any, status: int = 200, headers: Sequence[Header] = ()) -> Reply:
    return Reply(_encode(value), status, headers)


def error_reply(
    status: int, text: str, params: Mapping[str, Any] | None = None, headers: Sequence[Header] = ()
) -> Reply:
    return json_reply(WireErrorReply(text, params or UNSET), status, headers)


class Request:
    """One HTTP request."""

    def __init__(self, scope: Scope, receive: Receive, limits: Limits, budget: Budget) -> None:
        self.id = ""
        """The ``X-Request-ID`` of the request and its reply."""
        self.method: str = scope["method"]
        self.path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        self.peer = peer_name(scope.get("client"))
        """The other end of the connection, named in the same form as `sender`."""
        self.sender: ClientId
        """The sender: an IP address (the IPv4 of a mapped one), ``unix`` or ``name:…``; not the peer behind a proxy."""
        self.client: ClientId
        """The client whose jobs the caller may see."""
        self.sees: ClientId | None
        """The client whose jobs the caller may use. None for an operator: those of every client."""
        self.group: GroupId | None = None
        """The group of the caller, if it is not that of its client by default."""
        self.identity: Identity | None = None
        """The caller. None until the node has identified it."""
        self.sent_by(self.peer)
        self.caller: Caller | None = None
        """The caller as plugins know it, who may be unknown to them later. None if there are no such plugins."""
        self.parameters: Mapping[str, str] = {}
        """Path segments by the names in braces in the path of the route."""
        self.limits = limits
        self._budget = budget
        self._memory: Reservation | None = None
        self.scope = scope
        self.receive = receive
        self._query: Sequence[tuple[str, str]] | None = None
        self._values: dict[str, list[str]] | None = None
        self.headers: Mapping[bytes, bytes] = dict(scope["headers"])
        """Values by lower-case name; the last value of a repeated header."""
        self.unread = b"transfer-encoding" in self.headers or self.headers.get(b"content-length", b"0") != b"0"
        """True while more of the body may come."""

    def sent_by(self, sender: ClientId) -> None:
        """Note the sender, who is the client until the caller is identified."""
        self.sender = self.client = self.sees = sender

    def identified(self, identity: Identity) -> None:
        """Note the caller."""
        self.identity, self.client = identity, identity.client
        self.sees = None if identity.operator else identity.client
        self.group = None if identity.group == default_group(identity.client) else identity.group

    @property
    def http_version(self) -> str:
        """``1.0``, ``1.1`` or ``2``."""
        return str(self.scope.get("http_version", "1.1"))

    def texts(self) -> Mapping[str, str]:
        """Return the headers as text, by lower-case name; the values of a repeated one are joined by ``, ``."""
        texts: dict[str, str] = {}
        for name, value in self.scope["headers"]:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            texts[key] = f"{texts[key]}, {text}" if key in texts else text
        return texts

    def values(self, name: bytes) -> Sequence[bytes]:
        """Return every value of a header, given its lower-case name."""
        if name not in self.headers:
            return ()
        return [value for key, value in self.scope["headers"] if key == name]

    @property
    def address(self) -> str | None:
        """The sender's IP address, or None if it has none."""
        return unmapped(self.sender)

    @property
    def query(self) -> Sequence[tuple[str, str]]:
        if self._query is None:
            try:
                text = self.scope["query_string"].decode("ascii")
                self._query = parse_qsl(text, keep_blank_values=True, max_num_fields=10_000, errors="strict")
            except ValueError as error:
                raise HttpError(400, "the query is not UTF-8, or has too many fields") from error
        return self._query

    def all(self, name: str) -> Sequence[str]:
        """Return every value of a query parameter."""
        if not self.scope["query_string"]:
            return ()
        if self._values is None:
            self._values = {}
            for key, value in self.query:
                self._values.setdefault(key, []).append(value)
        return self._values.get(name, ())

    def flag(self, name: str) -> bool | None:
        """Return a boolean of the query. Return None if it is not given."""
        if not (given := self.all(name)):
            return None
        values = {value.lower() for value in given}
        if len(values) > 1 or not values <= {"true", "false"}:
            raise HttpError(400, f"{name}: expected true or false")
        return values == {"true"}

    def check_framing(self) -> None:
        """Raise `HttpError` if the length of the body is ambiguous."""
        if b"content-length" in self.headers and b"transfer-encoding" in self.headers:
            raise HttpError(400, "both Content-Length and Transfer-Encoding are given", headers=self.close)

    def check_length(self) -> None:
        """Raise `HttpError` if Content-Length is not a whole number or exceeds the limit."""
        if not (length := self.headers.get(b"content-length", b"0")).isdigit():
            raise HttpError(400, "Content-Length: expected a whole number", headers=self.close)
        if len(length) > _LENGTH_DIGITS or int(length) > self.limits.max_body_bytes:
            raise self.too_large()

    async def body(self) -> bytes | bytearray:
        """Read the whole body. Raise `HttpError` if it exceeds the limits of size or time.

        Memory is reserved for it and its copies. Raise `Unavailable` if there is none, and `CallerLost` if the caller
        is not known any more.
        """
        self.check_length()
        arrived = await self._at_once()
        body = await self._decoded() if arrived is None else arrived
        if self.caller is not None:  # a slow body may outlast the right to send it
            await self.caller.check()
        return body

    async def _at_once(self) -> bytes | None:
        """Return the body if it is there as a whole and as it is: most are small, and arrive with their heads."""
        if b"content-encoding" in self.headers or (body := take_arrived(self.scope)) is None:
            return None
        self.unread = False
        if len(body) > self.limits.max_body_bytes:
            raise self.too_large()
        if not self.memory.grow_at_once(COPIES * len(body)):
            await self.memory.grow_soon(COPIES * len(body))
        return body

    async def _decoded(self) -> bytes | bytearray:
        if b"content-encoding" not in self.headers or not self._is_gzip():
            return await self._whole(self._pieces())
        try:
            return await self._whole(gunzipped(self._pieces()))
        except ValueError as error:
            raise HttpError(400, f"the body is no gzip, which Content-Encoding says: {error}") from error

    def _is_gzip(self) -> bool:
        try:
            return is_gzip(self.texts()["content-encoding"])
        except ValueError as error:
            text = f"Content-Encoding: {error} is not understood; send the body as it is, or in {ACCEPTED}"
            raise HttpError(415, text, headers=[(b"accept-encoding", ACCEPTED.encode()), *self.close]) from error

    async def _whole(self, pieces: AsyncIterator[bytes]) -> bytes | bytearray:
        most = self.limits.max_body_bytes
        first, body = b"", bytearray()
        pace, since = BodyPace(self.limits), anyio.current_time()
        with anyio.move_on_after(pace.seconds) as scope:
            async for piece in pieces:
                if len(first) + len(body) + len(piece) > most:
                    raise self.too_large()
                if self.unread:
                    pace.waited(anyio.current_time() - since, len(piece))
                    scope.deadline = math.inf  # waiting for memory is not the client's
                    await self.memory.grow_soon(COPIES * len(piece))
                    since = anyio.current_time()
                    scope.deadline = since + pace.seconds
                else:
                    await self.memory.grow_soon(COPIES * len(piece))
                if not first and not body:
                    first = piece  # most bodies are one piece
                    continue
                if first:
                    body += first
                    first = b""
                body += piece
            return body or first
        raise self.too_slow()

    @property
    def memory(self) -> Reservation:
        """The memory that is reserved for the request and its reply. It counts for the group of the caller."""
        if self._memory is None:
            self._memory = self.reservation()
        return self._memory

    def reservation(self) -> Reservation:
        """Return another reservation for the caller."""
        return self._budget.for_request(self.group or default_group(self.client))

    def release(self) -> None:
        """Give back the memory that is reserved for the request and its reply."""
        if self._memory is not None:
            self._memory.release()

    def too_large(self) -> HttpError:
        return HttpError(
            413, f"the body is larger than {counted(self.limits.max_body_bytes, 'byte')}", headers=self.close
        )

    def too_slow(self) -> HttpError:
        limits = self.limits
        text = f"the body did not arrive within {limits.body_seconds:g} s, or came to a stop"
        return HttpError(408, f"{text} for {limits.body_timeout_seconds:g} s", headers=self.close)

    @property
    def close(self) -> Sequence[Header]:
        """The header that ends the connection after the reply; empty for HTTP/2, which has no such header."""
        return [(b"connection", b"close")] if self.http_version < "2" else []

    async def linger(self) -> None:
        """Keep reading the body for a limited time and size, so that the client sees the reply instead of a reset."""
        left = LINGER_BYTES
        with anyio.move_on_after(LINGER_SECONDS):
            async for piece in self._pieces():
                left -= len(piece)
                if left < 0:
                    return

    async def gone(self) -> None:
        """Return once the client has disconnected. The body must have been read before."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def _pieces(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            more = self.unread = message.get("more_body", False)
            yield message.get("body", b"")
