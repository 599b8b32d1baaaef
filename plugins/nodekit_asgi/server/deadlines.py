"""Deadlines of connections: for the head of a request, for idle connections, and for clients that do not read.

All connections of a server are checked together at regular intervals, so that a request costs no timer.
"""

import asyncio
import logging
import math
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from typing import Any, Protocol

from nodekit_asgi.config import AsgiConfig

try:
    from fcntl import ioctl
    from termios import TIOCOUTQ
except ImportError:  # another system
    ioctl = None  # type: ignore[assignment]

logger = logging.getLogger("nodekit.http")

LONGEST_INTERVAL_SECONDS = 1.0
"""Longest time between two checks; it is less if a timeout is short."""
SHORTEST_INTERVAL_SECONDS = 0.02
"""Shortest time between two checks, however short a timeout is: a check takes time for each connection."""


class Late(Enum):
    """A thing that a client has not done in time."""

    HEAD = auto()
    """Send the whole head of a request."""
    REQUEST = auto()
    """Send another request on a kept connection."""
    READING = auto()
    """Take what was sent to it."""


class Watched(Protocol):
    """Something with a deadline."""

    def check(self, now: float) -> None:
        """Act if a deadline is over."""


class Deadlines:
    """The deadlines of a server's connections.

    Their clock advances with the checks, and by no more than the time that a check may be late. So time in which the
    node itself stood still is not counted against clients.
    """

    def __init__(self, config: AsgiConfig) -> None:
        self.now = 0.0
        self.head_seconds = config.header_timeout_seconds
        self.idle_seconds = config.idle_timeout_seconds
        self.pace = ReadingPace(config)
        self._watched: set[Watched] = set()
        shortest = min(self.head_seconds, self.idle_seconds, self.pace.seconds)
        self._interval = max(SHORTEST_INTERVAL_SECONDS, min(LONGEST_INTERVAL_SECONDS, shortest / 4))

    def watch(self, watched: Watched) -> None:
        self._watched.add(watched)

    def forget(self, watched: Watched) -> None:
        self._watched.discard(watched)

    async def keep(self) -> None:
        """Check until cancelled."""
        loop = asyncio.get_running_loop()
        before = loop.time()
        while True:
            await asyncio.sleep(self._interval)
            before, passed = (now := loop.time()), now - before
            self.check(passed)

    def check(self, passed: float) -> None:
        """Check everything, after so many seconds."""
        self.now += min(passed, 2 * self._interval)
        for watched in [*self._watched]:
            try:
                watched.check(self.now)
            except Exception:  # one connection must not end the deadlines of all, and with them the node
                logger.exception("the deadline of a connection could not be checked")
                self.forget(watched)


class ConnectionDeadlines:
    """The deadlines of one connection, on which a first request is due. `late` is called when it fails to do something.

    The server reports each change: the client owes the head of a request (`head_due`), or may send one (`resting`), or
    the node owes an answer (`working`).
    """

    __slots__ = ("_due", "_kind", "_late", "_owner", "_reader", "_transport", "written")

    def __init__(self, owner: Deadlines, transport: asyncio.Transport, late: Callable[[Late], None]) -> None:
        self.written = 0
        """Bytes that were given to the transport. The server counts them."""
        self._owner = owner
        self._transport = transport
        self._late = late
        self._reader = TransportReader(transport, owner.pace)
        self.head_due()
        owner.watch(self)

    @property
    def is_resting(self) -> bool:
        return self._kind is Late.REQUEST

    @property
    def is_working(self) -> bool:
        return self._kind is None

    def head_due(self) -> None:
        self._kind: Late | None = Late.HEAD
        self._due = self._owner.now + self._owner.head_seconds

    def resting(self) -> None:
        self._kind, self._due = Late.REQUEST, self._owner.now + self._owner.idle_seconds

    def working(self) -> None:
        self._kind, self._due = None, math.inf

    def ended(self) -> None:
        self._owner.forget(self)

    def check(self, now: float) -> None:
        if now >= self._due and self._kind is not None:
            self._due = math.inf
            self._late(self._kind)
        if self._reader.is_late(self.written, now):
            self._late(Late.READING)


class ReadingPace:
    """The pace at which clients have to take what is sent to them."""

    def __init__(self, config: AsgiConfig) -> None:
        self.seconds = config.write_timeout_seconds
        self.bytes = max(1, int(config.min_bytes_per_second * self.seconds))
        """Bytes that a client has to take in so many seconds, if as many wait."""


class Reader:
    """One reader of something that waits for it: late if it took less than the pace demands."""

    __slots__ = ("_pace", "_since", "_taken")

    def __init__(self, pace: ReadingPace) -> None:
        self._pace = pace
        self._since: float | None = None
        self._taken = 0

    def has_all(self) -> None:
        """Record that nothing waits for the reader."""
        self._since = None

    def is_behind(self, taken: int, now: float) -> bool:
        """Return True if something waits, and the reader, who has taken so many bytes by now, is too slow."""
        if self._since is None or taken - self._taken >= self._pace.bytes:
            self._since, self._taken = now, taken
        return now - self._since >= self._pace.seconds


class TransportReader:
    """The reader at the other end of a transport."""

    __slots__ = ("_reader", "_seen", "_transport")

    def __init__(self, transport: asyncio.Transport, pace: ReadingPace) -> None:
        self._transport = transport
        self._reader = Reader(pace)
        self._seen = 0
        """Number of written bytes of which the client is known to have taken all."""

    def is_late(self, written: int, now: float) -> bool:
        if written == self._seen:
            return False
        waiting = self._transport.get_write_buffer_size() + _unacknowledged(self._transport.get_extra_info("socket"))
        if waiting <= 0:
            self._seen = written
            self._reader.has_all()
            return False
        return self._reader.is_behind(written - waiting, now)


def _unacknowledged(connection: Any) -> int:
    """Return the number of bytes in the system's send queue that the client has not taken.

    The transport's own buffer shrinks in steps of megabytes, too coarse to tell a slow reader from one that has left.
    """
    descriptor = -1 if connection is None else connection.fileno()
    if descriptor < 0 or ioctl is None:
        return 0
    with suppress(OSError):  # not on every system; the transport's buffer alone is a coarser measure
        return int.from_bytes(ioctl(descriptor, TIOCOUTQ, bytes(4)), sys.byteorder)
    return 0


class CountingTransport:
    """A transport whose written bytes are counted. Bytes for a connection that is closing are dropped."""

    __slots__ = (
        *("_closing", "_deadlines", "_write", "abort", "close", "get_extra_info", "get_write_buffer_size"),
        *("is_closing", "pause_reading", "resume_reading"),
    )

    def __init__(self, transport: asyncio.Transport, deadlines: ConnectionDeadlines) -> None:
        self._write, self._deadlines = transport.write, deadlines
        self.abort, self.close, self.is_closing = transport.abort, transport.close, transport.is_closing
        self.get_extra_info = transport.get_extra_info
        self.get_write_buffer_size = transport.get_write_buffer_size
        self.pause_reading, self.resume_reading = transport.pause_reading, transport.resume_reading

    def write(self, data: bytes) -> None:
        if not self.is_closing():
            self._deadlines.written += len(data)
            self._write(data)


def peer_address(transport: asyncio.BaseTransport) -> tuple[str, int] | None:
    """Return the address from which a connection was accepted; None on a unix socket.

    A socket whose client has reset it has no peer any more. Asking it would make that client one of a unix socket.
    Raise `OSError` if the address is not known.
    """
    connection = transport.get_extra_info("socket")
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    name = transport.get_extra_info("peername") or connection.getpeername()
    return str(name[0]), int(name[1])
