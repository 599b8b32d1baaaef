"""The interface to the HTTP client. Only this module and `_connector` know aiohttp; a leaner client can replace it.

It runs on asyncio, as aiohttp does.
"""

import errno
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp
import anyio
from aiohttp.abc import AbstractCookieJar
from aiohttp.http_exceptions import HttpProcessingError

from nodekit import ContainerFailed, counted, reserve_output
from nodekit_remote._breaks import cause_of
from nodekit_remote._connector import EXCHANGE, CheckConnection, Connector, Exchange
from nodekit_remote._loopback import elsewhere

QUIET_SECONDS = 60.0
"""Pause between two warnings in the log that no descriptor is left."""
PATIENCE_SECONDS = 0.5
"""Pause between two attempts to open a connection while the process has no free descriptor."""


logger = logging.getLogger("nodekit.remote")

ERRORS = (aiohttp.ClientError, HttpProcessingError, OSError, ValueError)
"""Errors of the HTTP client while a reply is read."""


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

    def __init__(self, url: str, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self._url = url
        self._response = response
        self._body = response.content.iter_any()
        self._size = 0
        """Number of bytes that have come."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Return the next piece. Raise `ContainerFailed` of the kind connection if the body ends early."""
        try:
            return await anext(self._body)
        except ERRORS as error:
            raise _dropped(self._url, error) from error

    async def whole(self, max_bytes: int) -> Reply:
        """Read the whole body. Raise `ContainerFailed` of the kind connection or too_large."""
        try:
            body = await self._read(max_bytes)
        except ERRORS as error:
            length = self._response.content_length
            came = (
                f", after {self._size} of {counted(length, 'byte')}"
                if length
                else f", after {counted(self._size, 'byte')}"
            )
            raise _dropped(self._url, error, came) from error
        header = self._response.headers.get
        return Reply(self.status, body, header("Content-Type", ""), header("Location", ""), header("Retry-After"))

    async def _read(self, most: int) -> bytes:
        """Read the decompressed body. Raise `ContainerFailed` if it is larger than `most` bytes."""
        if (self._response.content_length or 0) > most:
            raise ContainerFailed("too_large", f"the reply is larger than {counted(most, 'byte')}", status=self.status)
        pieces: list[bytes] = []
        async for piece in self._body:
            self._size += len(piece)
            if self._size > most:
                raise ContainerFailed(
                    "too_large", f"the reply is larger than {counted(most, 'byte')}", status=self.status
                )
            await reserve_output(len(piece))
            pieces.append(piece)
        return b"".join(pieces)


class NoConnection(ContainerFailed):
    """A connection was refused, or there is no way to the container. One that takes long may only be busy."""


class _NoDescriptor(Exception):
    """The process cannot open more files right now. Nothing was sent."""


class _StaleReply(Exception):
    """A reply came before the request was sent: it belongs to an earlier request."""


class Session:
    """A session that keeps its connections for a while. No cookies, no proxies from the environment, no redirects."""

    def __init__(self, *, connect_seconds: float, check_connection: CheckConnection | None = None) -> None:
        self._check = check_connection
        self._timeout = aiohttp.ClientTimeout(total=None)
        self._connect_seconds = connect_seconds
        self._session: aiohttp.ClientSession | None = None
        self._quiet_until = 0.0

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=Connector(self._connect_seconds, self._check),
            cookie_jar=_no_cookies(),
            timeout=self._timeout,
            trust_env=False,
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(self, url: str, body: bytes, headers: dict[str, str], *, max_bytes: int) -> Reply:
        """Send a POST; wait while no descriptor is free. Raise `ContainerFailed`, kind connection or too_large."""
        async with await self._patiently("POST", url, body, headers) as response:
            return await Pieces(url, response).whole(max_bytes)

    async def get(self, url: str, headers: dict[str, str], *, max_bytes: int) -> Reply:
        """Send a GET. Wait and raise like `post`."""
        async with await self._patiently("GET", url, None, headers) as response:
            return await Pieces(url, response).whole(max_bytes)

    @asynccontextmanager
    async def stream(self, url: str, body: bytes, headers: dict[str, str]) -> AsyncIterator[Pieces]:
        """Send a POST and yield the reply once its head has come. Raise like `post`.

        If the context is left before the end of the reply, the connection is closed.
        """
        response = await self._patiently("POST", url, body, {"Accept": "*/*", **headers})
        try:
            yield Pieces(url, response)
        finally:
            response.close()

    async def _patiently(
        self, method: str, url: str, body: bytes | None, headers: dict[str, str]
    ) -> aiohttp.ClientResponse:
        """Send a request, and try again while no descriptor is free: kept connections to other containers end soon."""
        while True:
            try:
                return await self._request(method, url, body, headers)
            except _NoDescriptor:
                self._warn()
                await anyio.sleep(PATIENCE_SECONDS)

    def _warn(self) -> None:
        if time.monotonic() > self._quiet_until:
            self._quiet_until = time.monotonic() + QUIET_SECONDS
            logger.warning("no descriptor is left for a connection; waiting. Allow more open files (ulimit -n)")

    async def _request(
        self, method: str, url: str, body: bytes | None, headers: dict[str, str]
    ) -> aiohttp.ClientResponse:
        """Send a request and return once the reply's head has come. The caller reads the body and closes the reply.

        A container may close a kept connection at any time. If it does so before the first byte of a reply, the request
        is sent once more, on a new connection.
        """
        exchange = Exchange(fresh=False)
        try:
            return await self._exchange(exchange, method, url, body, headers)
        except _StaleReply:
            pass
        except (aiohttp.ClientConnectionError, OSError) as error:
            if not exchange.reused or exchange.answered:
                raise _dropped(url, error) from error
        try:
            return await self._exchange(Exchange(fresh=True), method, url, body, headers)
        except (aiohttp.ClientConnectionError, OSError) as error:
            raise _dropped(url, error) from error

    async def _exchange(
        self, exchange: Exchange, method: str, url: str, body: bytes | None, headers: dict[str, str]
    ) -> aiohttp.ClientResponse:
        assert self._session is not None, "the session is not open"
        token = EXCHANGE.set(exchange)
        try:
            response = await self._session.request(method, url, data=body, headers=headers, allow_redirects=False)
        except aiohttp.ConnectionTimeoutError as error:
            text = f"no connection to {url} within {self._connect_seconds:g} s"
            raise ContainerFailed("connection", text) from error
        except aiohttp.ClientConnectorCertificateError as error:  # it has no `os_error`
            raise NoConnection("connection", f"cannot connect to {url}: {cause_of(error)}") from error
        except aiohttp.ClientConnectorError as error:
            if error.os_error.errno in (errno.EMFILE, errno.ENFILE):  # the container is not to blame
                raise _NoDescriptor from error
            hint = await elsewhere(url) if self._check is None else ""  # who checks connections knows the address
            raise NoConnection("connection", f"cannot connect to {url}: {cause_of(error.os_error)}{hint}") from error
        except (aiohttp.ClientConnectionError, OSError):  # the caller may try again
            raise
        except (aiohttp.ClientError, ValueError) as error:
            raise _dropped(url, error) from error
        finally:
            exchange.end()
            EXCHANGE.reset(token)
        if getattr(response, "_writer", None) is not None:  # the reply began before the request was sent
            self._is_early(response, exchange)
        return response

    def _is_early(self, response: aiohttp.ClientResponse, exchange: Exchange) -> None:
        """Have the connection closed after the reply. Raise `_StaleReply` if it belongs to an earlier request."""
        if response.connection is not None and response.connection.protocol is not None:
            response.connection.protocol.force_close()
        if exchange.reused:
            response.close()
            raise _StaleReply


def _dropped(url: str, error: BaseException, came: str = "") -> ContainerFailed:
    if isinstance(error, aiohttp.ClientResponseError | HttpProcessingError):
        logger.debug("the reply of %s cannot be read: %s", url, error.message)
    text = f"the connection to {url} was dropped before the reply was complete ({cause_of(error)}{came})"
    return ContainerFailed("connection", text)


def _no_cookies() -> AbstractCookieJar:
    return aiohttp.DummyCookieJar()
