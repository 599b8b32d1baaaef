"""The connections to containers: what is kept, and what is used again."""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from typing import TypeAlias

from nodekit import ContainerFailed, time_limit
from nodekit_remote._addresses import Resolver, connected_socket
from nodekit_remote._connection import BUFFER_BYTES, Connection
from nodekit_remote._idle import IdleRule, trial_seconds
from nodekit_remote._requests import OriginKey

KEEP_ALIVE_SECONDS = 1.5
"""Shorter than any common server's time, so that no call is sent on a connection that is being closed."""

CheckConnection: TypeAlias = Callable[[tuple[str, int], tuple[str, int]], None]
"""Checks a connection by its own address and its peer's. Raises `ContainerFailed` if it must not be used."""

logger = logging.getLogger("nodekit.calls")


class ConnectTimeout(Exception):
    """There was no connection in time."""


class Origin:
    """The connections to one container.

    A kept one is used again only if nothing has arrived on it. Such bytes would be read as the beginning of the next
    reply, and so one job's output would become another's. They can also arrive a moment later, when nobody can tell. So
    connections to a container that has once sent some are not kept any more. An `IdleRule` says how many are kept.
    """

    def __init__(self, key: OriginKey, loop: asyncio.AbstractEventLoop) -> None:
        self.key, self._loop = key, loop
        self.rule = IdleRule()
        self.idle: list[Connection] = []
        """Kept connections. The one that was used last is the last, and the next to be used."""
        self.open: set[Connection] = set()
        """All connections, idle or not."""
        self.is_talkative = False
        """True if it has sent more than it was asked for."""

    def take(self) -> Connection | None:
        """Return a kept connection for an exchange, or None."""
        now = self._loop.time()
        while self.idle:
            connection = self.idle.pop()
            if connection.has_unasked:
                self.note_talkative()
            if not connection.is_open:
                continue
            if now - connection.since <= KEEP_ALIVE_SECONDS and not connection.is_readable:
                connection.since = now
                return connection
            if connection.has_bytes:
                self.note_talkative()
            connection.abort()
        return None

    def release(self, connection: Connection) -> None:
        if connection.reply.has_more:
            self.note_talkative()
        if not connection.may_be_kept or self.is_talkative or not self._may_stay(connection):
            connection.abort()
            return
        connection.settle()
        connection.since = self._loop.time()
        self.idle.append(connection)

    def ended(self, connection: Connection) -> None:
        self.open.discard(connection)
        if connection.has_unasked:
            self.note_talkative()

    def note_talkative(self) -> None:
        """Keep no connection of this container from now on."""
        if not self.is_talkative:
            self.is_talkative = True
            where = f"{self.key.scheme}://{self.key.host}:{self.key.port}"
            text = "the container at %s sent more than one reply to a request; its connections are not kept any more"
            logger.warning(text, where)

    def close_idle(self, since: float) -> None:
        """Close the kept connections that have been idle from before `since`."""
        kept = [connection for connection in self.idle if connection.since > since and connection.is_open]
        for connection in self.idle:
            if connection.since <= since:
                connection.abort()
        self.idle = kept

    @property
    def is_blank(self) -> bool:
        """True if nothing is known that a new one does not know."""
        return not self.open and not self.is_talkative and self.rule.is_blank

    def _may_stay(self, connection: Connection) -> bool:
        """Return True if the rule keeps the connection. A trial that begins now ends by itself."""
        answer = self.rule.released()
        if not isinstance(answer, bool):
            seconds = trial_seconds(self._loop.time() - connection.since)
            self._loop.call_later(seconds, self._end_trial, answer)
        return answer is not False

    def _end_trial(self, trial: object) -> None:
        if self.rule.expired(trial):
            self.close_idle(self._loop.time())


class Connector:
    """The connections of a session, by the place to which they lead."""

    def __init__(self, connect_seconds: float, check: CheckConnection | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._connect_seconds, self._check = connect_seconds, check
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._origins: dict[OriginKey, Origin] = {}
        self._resolver = Resolver()
        self._tls: ssl.SSLContext | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._is_closed = False

    def take(self, key: OriginKey) -> Connection | None:
        """Return a kept connection to a place, or None."""
        origin = self._origins.get(key)
        return None if origin is None else origin.take()

    async def connect(self, key: OriginKey) -> Connection:
        """Return a new connection. Raise `ConnectTimeout`, `ContainerFailed` of the check, or `OSError`."""
        if self._is_closed:
            raise ConnectionAbortedError("the session is closed")
        origin = self._origins.get(key)
        if origin is None:
            origin = self._origins[key] = Origin(key, self._loop)
        connection = Connection(self._buffer, origin)
        origin.rule.waits(connection)
        try:
            with time_limit(self._connect_seconds):
                await self._open(origin, connection)
                connection.since = self._loop.time()
                return connection
            raise ConnectTimeout
        except BaseException:
            connection.abort()
            raise

    async def close(self) -> None:
        """Close all connections, and wait until the event loop has let go of them."""
        self._is_closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for origin in list(self._origins.values()):
            for connection in list(origin.open):
                connection.abort()
            while origin.open:  # noqa: ASYNC110 - the loop lets go of them in its next rounds
                await asyncio.sleep(0)

    async def _open(self, origin: Origin, connection: Connection) -> None:
        key, tls = origin.key, None
        if key.scheme == "https":
            tls = self._tls = self._tls or await self._loop.run_in_executor(None, _tls_context)
        connected = await self._connected_socket(key)
        try:
            if self._check is not None:
                _check(connected, self._check)
            name = None if tls is None else key.host.rstrip(".")
            await self._loop.create_connection(lambda: connection, sock=connected, ssl=tls, server_hostname=name)
        except BaseException as error:
            connected.close()
            if isinstance(error, ValueError) and not isinstance(error, OSError):
                raise OSError(errno.EINVAL, f"no certificate can be for {key.host!r}") from error
            raise
        if self._is_closed:
            raise ConnectionAbortedError("the session is closed")
        if connection.opened(connected).is_open:
            origin.open.add(connection)
            if self._sweeper is None:
                self._sweeper = self._loop.call_later(KEEP_ALIVE_SECONDS, self._sweep)

    async def _connected_socket(self, key: OriginKey) -> socket.socket:
        try:
            return await connected_socket(await self._resolver.resolve(key.host, key.port))
        except OSError:
            self._resolver.forget(key.host, key.port)
            raise

    def _sweep(self) -> None:
        """Close what has been idle for long, and forget places about which there is nothing to know."""
        self._sweeper = None
        for key, origin in list(self._origins.items()):
            origin.close_idle(self._loop.time() - KEEP_ALIVE_SECONDS)
            if origin.is_blank:
                del self._origins[key]
        if any(origin.open for origin in self._origins.values()):
            self._sweeper = self._loop.call_later(KEEP_ALIVE_SECONDS, self._sweep)


def _check(connected: socket.socket, check: CheckConnection) -> None:
    try:
        own, peer = connected.getsockname(), connected.getpeername()
    except OSError as error:
        raise ContainerFailed("connection", "the container closed the connection at once") from error
    check(own, peer)


def _tls_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
