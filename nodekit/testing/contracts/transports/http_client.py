"""A client of HTTP/1.1 that shows raw replies and can send requests that no well-behaved client sends."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import anyio
import msgspec
from anyio.abc import ByteStream
from anyio.streams.buffered import BufferedByteReceiveStream

from nodekit.testing.contracts.bounds import MOST_BYTES, Pieces, turn, within
from nodekit.testing.contracts.transports.listening import connect

MOST_HEAD_BYTES = 1 << 16

Header = tuple[str, str]


class CutOff(Exception):
    """The connection ended before the reply was complete."""


class HttpAnswer(msgspec.Struct, frozen=True):
    """A reply: status, headers and body."""

    status: int
    headers: Sequence[Header]
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """Return the values of a header, joined into one. Return None if there is none."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        return ", ".join(values) if values else None

    @property
    def json(self) -> Any:
        kind = self.header("Content-Type") or ""
        assert kind.partition(";")[0].strip().lower() == "application/json", f"{self.status} as {kind!r}: {self.body!r}"
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """Text of an error reply. The reply is a JSON object with ``error`` and, if there are any, ``params``."""
        reply = msgspec.convert(self.json, dict[str, Any])
        assert isinstance(reply.get("error"), str), f"{self.status}: `error` is a text: {reply!r}"
        assert reply["error"], f"{self.status}: `error` says nothing"
        assert set(reply) <= {"error", "params"}, f"{self.status}: an error has `error` and `params`: {reply!r}"
        return str(reply["error"])

    @property
    def params(self) -> Any:
        return self.json.get("params") or {}

    @property
    def pause_seconds(self) -> int:
        """Value of ``Retry-After``, a whole number of seconds."""
        text = self.header("Retry-After")
        assert text is not None, f"{self.status} without Retry-After"
        assert text.isdigit(), f"Retry-After: expected whole seconds, not {text!r}"
        return int(text)


class HttpConnection:
    """One connection under manual control. `timeout_seconds` limits the wait for anything that must come."""

    def __init__(self, stream: ByteStream, timeout_seconds: float) -> None:
        self._stream = stream
        self._came = BufferedByteReceiveStream(stream)
        self._timeout_seconds = timeout_seconds

    async def send(self, data: bytes) -> None:
        """Send bytes; drop those that the server does not read any more."""
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await self._stream.send(data)

    async def head(self) -> HttpAnswer:
        """Read status and headers of the next reply. The body is not read."""
        while True:
            await turn()
            lines = (await self._until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            status = int(lines[0].split(" ")[1])
            if status >= 200:
                pairs = (line.partition(":") for line in lines[1:])
                return HttpAnswer(status, [(name.strip(), value.strip()) for name, _, value in pairs])

    async def answer(self, method: str = "GET") -> HttpAnswer:
        """Read the next reply completely. Raises `CutOff` if it is incomplete."""
        head = await self.head()
        if method == "HEAD" or head.status in (204, 304):
            return head
        return msgspec.structs.replace(head, body=await self._body(head))

    async def _body(self, head: HttpAnswer) -> bytes:
        if (head.header("Transfer-Encoding") or "").lower() == "chunked":
            return await self.rest()
        if (length := head.header("Content-Length")) is not None:
            return await self._exactly(int(length))
        came = Pieces()
        with suppress(anyio.EndOfStream):
            while True:
                await came.take(await self._came.receive())
        return came.whole

    async def rest(self) -> bytes:
        """Read all further pieces of a chunked body. Raises `CutOff` if it breaks off."""
        came = Pieces()
        while piece := await self.piece():
            await came.take(piece)
        return came.whole

    async def piece(self) -> bytes:
        """Read the next piece of a chunked body; an empty piece is the end. Raises `CutOff` if it breaks off."""
        size = int((await self._until(b"\r\n")).partition(b";")[0], 16)
        data = await self._exactly(size) if size else b""
        assert await self._until(b"\r\n") == b"", "a chunk is longer than it says"
        return data

    async def ended(self) -> bool:
        """Return True if the server closes the connection and sends nothing more."""
        try:
            with within(self._timeout_seconds, "the server closes the connection"):
                return await self._came.receive() == b""
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return True

    async def _until(self, delimiter: bytes) -> bytes:
        try:
            with within(self._timeout_seconds, "the server sends more of a reply"):
                return await self._came.receive_until(delimiter, MOST_HEAD_BYTES)
        except (anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError) as error:
            raise CutOff from error

    async def _exactly(self, size: int) -> bytes:
        assert size <= MOST_BYTES, f"a body, or a chunk, of {size} bytes is more than any that was asked for"
        try:
            with within(self._timeout_seconds, f"the server sends {size} bytes more"):
                return await self._came.receive_exactly(size)
        except (anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError) as error:
            raise CutOff from error


class HttpClient:
    """Sends requests to a node at a URL, each over a connection of its own."""

    def __init__(self, url: str, *, timeout_seconds: float, source: str | None = None) -> None:
        self.url = url
        self.source = source
        self.timeout_seconds = timeout_seconds

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc if self.url.startswith("http") else "localhost"

    @asynccontextmanager
    async def connected(self, seconds: float | None = None) -> AsyncIterator[HttpConnection]:
        async with await connect(self.url, self.source) as stream:
            yield HttpConnection(stream, seconds or self.timeout_seconds)

    def request(self, method: str, path: str, body: Any = None, headers: Sequence[Header] = ()) -> bytes:
        """Make a request as bytes. A body that is not `bytes` becomes JSON. Headers in `headers` replace the default
        ones."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        names = {name.lower() for name, _ in headers}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        if "host" not in names:
            lines.append(f"Host: {self.host}")
        if not names & {"content-length", "transfer-encoding"} and (data or method not in ("GET", "HEAD", "DELETE")):
            lines.append(f"Content-Length: {len(data)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + data

    async def call(
        self, method: str, path: str, body: Any = None, *headers: Header, seconds: float | None = None
    ) -> HttpAnswer:
        with anyio.fail_after(seconds or self.timeout_seconds):
            async with self.connected(seconds) as connection:
                await connection.send(self.request(method, path, body, headers))
                return await connection.answer(method)

    async def get(self, path: str, *headers: Header) -> HttpAnswer:
        return await self.call("GET", path, None, *headers)

    async def post(self, path: str, body: Any, *headers: Header) -> HttpAnswer:
        return await self.call("POST", path, body, *headers)

    async def sent(self, data: bytes) -> HttpAnswer:
        """Send these bytes unchanged, and return the answer."""
        with anyio.fail_after(self.timeout_seconds):
            async with self.connected() as connection:
                await connection.send(data)
                return await connection.answer()
