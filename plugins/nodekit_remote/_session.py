"""The interface to the HTTP client: requests, and replies of which the body is decoded. No cookies, no proxies from the
environment, no redirects. It runs on asyncio."""

import logging
import math
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import anyio
from anyio.lowlevel import checkpoint

from nodekit import ContainerFailed, counted, reserve_output
from nodekit_remote._addresses import NO_DESCRIPTOR
from nodekit_remote._breaks import Broken, cause_of
from nodekit_remote._connection import Connection
from nodekit_remote._connector import CheckConnection, Connector, ConnectTimeout
from nodekit_remote._decoding import Decoder, decoder_for
from nodekit_remote._loopback import elsewhere
from nodekit_remote._requests import RequestHead

QUIET_SECONDS = 60.0
"""Pause between two warnings in the log that no descriptor is left."""
PATIENCE_SECONDS = 0.5
"""Pause between two attempts to open a connection while the process has no free descriptor."""


logger = logging.getLogger("nodekit.calls")


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole HTTP reply."""

    status: int
    body: bytes
    content_type: str = ""
    location: str = ""
    retry_after: str | None = None


class Pieces:
    """The body of a reply as it comes. At most 128 KiB are read ahead of the consumer."""

    def __init__(self, url: str, connection: Connection) -> None:
        self.status = connection.reply.status
        self._url, self._connection = url, connection
        self._size = 0
        """Number of decompressed bytes that have come."""
        self._coding = connection.reply.header(b"content-encoding")
        self._decoder: Decoder | None = None
        self._packed_size = 0
        self._unpacked: Iterator[bytes] = iter(())
        """The pieces that are still to be decompressed."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Return the next piece. Raise `ContainerFailed` of the kind connection if the body ends early."""
        try:
            piece = await self._next()
        except Broken as error:
            raise dropped(self._url, error) from error
        if not piece:
            raise StopAsyncIteration
        return piece

    async def whole(self, most: int) -> Reply:
        """Read the whole body, of at most so many bytes. Raise `ContainerFailed`, kind connection or too_large."""
        reply = self._connection.reply
        length = reply.length or 0
        try:
            if length > most:
                raise self._too_large(most)
            body = await self._read(most)
        except Broken as error:
            of = f"{self._size} of " if length else ""
            came = f", after {of}{counted(length or self._size, 'byte')}"
            raise dropped(self._url, error, came) from error
        header = reply.header
        kind, place = header(b"content-type") or "", header(b"location") or ""
        return Reply(self.status, body, kind, place, header(b"retry-after"))

    async def _read(self, most: int) -> bytes:
        """Read the decompressed body. Raise `ContainerFailed` if it is larger than `most` bytes."""
        body: list[bytes] = []
        while not self._is_at_end and (piece := await self._next(most)):
            self._size += len(piece)
            if self._size > most:
                raise self._too_large(most)
            await reserve_output(len(piece))
            body.append(piece)
        return body[0] if len(body) == 1 else b"".join(body)

    @property
    def _is_at_end(self) -> bool:
        """True if there is nothing more to read or to decompress, as after the only piece of most replies."""
        reply = self._connection.reply
        return reply.is_complete and not reply.pieces and reply.error is None and self._coding is None

    async def _next(self, most: float = math.inf) -> bytes:
        """Return the next piece, decompressed; nothing at the end. Raise `Broken`.

        Raise `ContainerFailed` if more than `most` bytes came: they may unpack to nothing, and have no end.
        """
        if self._coding is None:
            return await self._connection.more()
        if self._decoder is None:
            self._decoder = decoder_for(self._coding)
            if self._decoder is None:
                self._coding = None
                return await self._connection.more()
        while True:
            for piece in self._unpacked:
                await checkpoint()  # much may come of little
                return piece
            packed = await self._connection.more()
            if not packed:
                self._decoder.end()
                return b""
            self._packed_size += len(packed)
            if self._packed_size > most:
                raise self._too_large(int(most))
            self._unpacked = self._decoder.decode(packed)

    def _too_large(self, most: int) -> ContainerFailed:
        return ContainerFailed("too_large", f"the reply is larger than {counted(most, 'byte')}", status=self.status)


class NoConnection(ContainerFailed):
    """A connection was refused, or there is no way to the container. One that takes long may only be busy."""


class Session:
    """A session that keeps its connections for a while."""

    def __init__(self, *, connect_seconds: float, check_connection: CheckConnection | None = None) -> None:
        self._check, self._connect_seconds = check_connection, connect_seconds
        self._connector: Connector | None = None
        self._quiet_until = 0.0

    async def __aenter__(self) -> Self:
        self._connector = Connector(self._connect_seconds, self._check)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connector is not None:
            await self._connector.close()

    async def send(self, head: RequestHead, more: bytes = b"", body: bytes | None = None, *, max_bytes: int) -> Reply:
        """Send a request; wait while no descriptor is free. Raise `ContainerFailed`, kind connection or too_large.

        `more` are lines that this request has in its head besides.
        """
        connection = await self._exchange(head, more, body, max_bytes, streams=False)
        try:
            return await Pieces(head.url, connection).whole(max_bytes)
        finally:
            connection.release()

    @asynccontextmanager
    async def stream(self, head: RequestHead, more: bytes, body: bytes) -> AsyncIterator[Pieces]:
        """Send a request and yield the reply once its head has come. Raise like `send`.

        If the context is left before the end of the reply, the connection is closed.
        """
        connection = await self._exchange(head, more, body, 0, streams=True)
        try:
            yield Pieces(head.url, connection)
        finally:
            connection.release()

    async def _exchange(
        self, head: RequestHead, more: bytes, body: bytes | None, most: int, *, streams: bool
    ) -> Connection:
        """Send a request and return once the reply's head has come. The caller reads the body, and releases.

        A container may close a kept connection at any time. If it does so before the first byte of a reply, the request
        is sent once more, on a new connection. So it is if a reply came before the request was sent: it belongs to an
        earlier request.
        """
        assert self._connector is not None, "the session is not open"
        length = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
        start = b"%b%b%b\r\n" % (head.start, more, length)
        connection = self._connector.take(head.origin)
        if connection is not None:
            await connection.exchange(start, body or b"", most_bytes=most, streams=streams)
            if connection.reply.has_head and not connection.is_early:
                return connection
            connection.abort()
            if connection.has_answered and not connection.is_early:
                raise dropped(head.url, connection.failure) from connection.failure
        connection = await self._connect(head)
        await connection.exchange(start, body or b"", most_bytes=most, streams=streams)
        if not connection.reply.has_head:
            connection.abort()
            raise dropped(head.url, connection.failure) from connection.failure
        return connection

    async def _connect(self, head: RequestHead) -> Connection:
        """Return a new connection. Try again while no descriptor is free: kept ones to other containers end soon."""
        assert self._connector is not None, "the session is not open"
        while True:
            try:
                return await self._connector.connect(head.origin)
            except ConnectTimeout as error:
                text = f"no connection to {head.url} within {self._connect_seconds:g} s"
                raise ContainerFailed("connection", text) from error
            except OSError as error:
                if error.errno not in NO_DESCRIPTOR:  # otherwise the container is not to blame
                    hint = "" if self._check or isinstance(error, ssl.SSLError) else await elsewhere(head.url)
                    text = f"cannot connect to {head.url}: {cause_of(error)}{hint}"
                    raise NoConnection("connection", text) from error
            self._warn()
            await anyio.sleep(PATIENCE_SECONDS)

    def _warn(self) -> None:
        if time.monotonic() > self._quiet_until:
            self._quiet_until = time.monotonic() + QUIET_SECONDS
            logger.warning("no descriptor is left for a connection; waiting. Allow more open files (ulimit -n)")


def dropped(url: str, error: Broken, came: str = "") -> ContainerFailed:
    """Return the failure of a call that got no whole reply."""
    if error.detail:
        logger.debug("the reply of %s cannot be read: %s", url, error.detail)
    text = f"the connection to {url} was dropped before the reply was complete ({error}{came})"
    return ContainerFailed("connection", text)
