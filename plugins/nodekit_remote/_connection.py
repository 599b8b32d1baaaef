"""One connection to a container, and the reply that comes on it. It uses no tasks, no timers and no streams.

It runs on asyncio and on uvloop.
"""

import asyncio
import select
import socket
from typing import Protocol, Self, cast

from nodekit_remote._breaks import NO_REPLY, Broken
from nodekit_remote._idle import IdleRule
from nodekit_remote._parser import ReplyParser

AHEAD_BYTES = 64 * 1024
"""Size of what waits for the consumer at which reading pauses. One more buffer may have been read."""
BUFFER_BYTES = 64 * 1024
WRITE_BYTES = 256 * 1024
"""Size of the parts in which a large body is sent, so that the transport does not hold a second copy of it."""
SMALL_BYTES = 64 * 1024
"""Maximum size of a body that is sent together with its head."""


class Keeper(Protocol):
    """The keeper of connections to one place."""

    rule: IdleRule

    def release(self, connection: "Connection") -> None:
        """Take a connection back after an exchange. Keep it or close it."""
        ...

    def ended(self, connection: "Connection") -> None:
        """Note that a connection is closed."""
        ...


class Connection(asyncio.BufferedProtocol):
    """A connection, with one exchange after another.

    For each, `exchange` sends a request and returns when the head of the reply has come, `more` returns the body, and
    the caller ends with `release` or `abort`.
    """

    def __init__(self, buffer: memoryview, keeper: Keeper) -> None:
        self._loop = asyncio.get_running_loop()
        self._buffer = buffer
        """The place for what the system has read. All connections share it: it is used up before the next one reads."""
        self._keeper = keeper
        self._transport: asyncio.Transport | None = None
        self._poll = select.poll()
        self._socket: socket.socket | None = None
        self.reply = ReplyParser()
        self.was_used = False
        """True if it has had an exchange before."""
        self.is_open = False
        self.is_early = False
        """True if the reply began before the request was sent: on a kept connection, that of an earlier request."""
        self.has_unasked = False
        """True if bytes came that nobody had asked for. They must not become the beginning of the next reply."""
        self.has_answered = False
        """True once the first byte of the reply has come."""
        self.since = 0.0
        """Loop time of the beginning of the exchange, or of its end if the connection is idle."""
        self._is_busy = False
        """True while bytes that come belong to the reply."""
        self._has_sent = False
        """True once all of the request is with the transport."""
        self._unsent = memoryview(b"")
        """The part of the body that is not."""
        self._reading_paused = self._writing_paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._wake_bytes = 0
        """Size of waiting pieces at which the caller wakes, unless the reply ends before."""
        self._most_bytes = 0

    # -- for its keeper

    def opened(self, connected: socket.socket) -> Self:
        """Take the socket of the transport, once all is ready for an exchange."""
        if self.is_open:
            self._socket = connected
            self._poll.register(connected.fileno(), select.POLLIN)
        return self

    @property
    def is_readable(self) -> bool:
        """True if there is anything to read, or the end of the connection."""
        return bool(self._poll.poll(0))

    @property
    def has_bytes(self) -> bool:
        """True if there is something to read that is part of a reply. TLS has bytes of its own, which say nothing."""
        if self.has_unasked:
            return True
        if self._socket is None or self._transport is None or self._transport.get_extra_info("ssl_object") is not None:
            return False
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False

    @property
    def may_be_kept(self) -> bool:
        """True if the reply is complete, the request was sent before it, and the connection goes on."""
        return self.is_open and self.reply.is_complete and not (self.reply.is_last or self.is_early)

    def settle(self) -> None:
        """Note that the exchange is over."""
        if not self.was_used:
            self.was_used = True
            self._keeper.rule.ended(self)

    def abort(self) -> None:
        """Close the connection at once, whatever has not been sent or read."""
        self.settle()
        self._unsent = memoryview(b"")
        if self._transport is not None:
            self._transport.abort()
        self._end(Broken("it was closed by this node"))

    @property
    def failure(self) -> Broken:
        """The reason why there is no reply, or no whole one."""
        return self.reply.error or Broken(NO_REPLY)

    # -- one exchange

    async def exchange(self, head: bytes, body: bytes, *, most_bytes: int, streams: bool) -> None:
        """Send a request and return when the head of the reply has come, its whole, or its error.

        Of a reply that does not stream, wait for the end, unless much waits, or more than `most_bytes` are announced.
        """
        self._wake_bytes, self._most_bytes = (0 if streams else AHEAD_BYTES), most_bytes
        if self.was_used and self.is_open:  # what comes on a new connection is read from the beginning
            self.reply.begin()
            self._is_busy, self.has_answered = True, False
        if self._is_busy:
            self._send(head, body)
        try:
            while self._is_busy and not self._has_enough():
                await self._wait()
        except BaseException:
            self.abort()
            raise

    async def more(self) -> bytes:
        """Return the next part of the body as it was sent; nothing at its end. Raise `Broken`."""
        reply = self.reply
        while not reply.pieces and self._is_busy:
            await self._wait()
        if reply.pieces:
            part = reply.take()
            if self._reading_paused and self._transport is not None and self.is_open:
                self._reading_paused = False
                self._transport.resume_reading()
            return part
        if reply.error is not None:
            raise reply.error
        return b""

    def release(self) -> None:
        """End the exchange. If the reply has come to its end, the connection may be used again."""
        self._keeper.release(self)

    def _send(self, head: bytes, body: bytes) -> None:
        """Send a request: a small one in one piece, and of a large one what the transport takes now."""
        if self._transport is None:
            return
        if len(body) <= SMALL_BYTES:
            self._transport.write(head + body)
            self._has_sent = True
        else:
            self._has_sent = False
            self._transport.write(head)
            self._unsent = memoryview(body)
            self._send_more()

    def _send_more(self) -> None:
        """Send the rest of a body no faster than the container takes it, also while its reply comes already."""
        while self._unsent and not self._writing_paused and self._transport is not None:
            part, self._unsent = self._unsent[:WRITE_BYTES], self._unsent[WRITE_BYTES:]
            self._has_sent = not self._unsent
            self._transport.write(part)

    async def _wait(self) -> None:
        """Wait until something has happened."""
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _has_enough(self) -> bool:
        """Return True if the caller of `exchange` can go on."""
        reply = self.reply
        return reply.has_head and (reply.waiting_bytes >= self._wake_bytes or (reply.length or 0) > self._most_bytes)

    # -- called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.is_open = self._is_busy = True

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if not self._is_busy:
            self.has_unasked = True
            self.abort()
            return
        reply = self.reply
        if not reply.has_begun:
            self._begin_reply()
        reply.feed(self._buffer[:nbytes])
        if reply.is_complete or reply.error is not None:
            self._is_busy = False
            self._wake()
            if reply.is_last or reply.error is not None:
                self.abort()  # what else may come is nothing that anybody waits for
        elif reply.waiting_bytes >= AHEAD_BYTES:
            self._pause()
            self._wake()
        elif self._has_enough():
            self._wake()

    def eof_received(self) -> None:
        self._end(None)
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc)
        self._transport = self._socket = None
        self.reply.close()
        self._keeper.ended(self)

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._send_more()

    def _begin_reply(self) -> None:
        """Note the first byte of a reply, or of an interim one."""
        self.has_answered = True
        if not self.was_used:
            self._keeper.rule.answered(self)
        unsent = self._transport.get_write_buffer_size() if self._transport is not None else 0
        self.is_early = bool(unsent) or not self._has_sent

    def _pause(self) -> None:
        if not self._reading_paused and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()

    def _end(self, error: Exception | None) -> None:
        """End the exchange that is under way: nothing more will come."""
        if self.is_open:
            self.is_open = False
            if self._is_busy:
                self._is_busy = False
                self.reply.end(error)
            self._wake()
