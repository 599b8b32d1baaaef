"""Connections to the server, each with tasks of its own that send commands and receive replies.

A caller only waits, and may be cancelled by any means: no cancellation reaches a connection between a command and its
reply. Calls that are made at the same time share round trips, and with ``appendfsync always`` one fsync. A call that
takes too long ends with its connection.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from random import random
from typing import Any, TypeAlias

import anyio
from anyio.abc import TaskGroup
from redis.exceptions import (
    BusyLoadingError,
    ConnectionError,
    ReadOnlyError,
    RedisError,
)
from redis.exceptions import (
    TimeoutError as TooSlow,
)

from nodekit import StoreFailed
from nodekit_redis._address import BROKEN, Address, Command, Wire, close
from nodekit_redis._errors import Lost, Unconfirmed, said

logger = logging.getLogger("nodekit.store")
Replies: TypeAlias = list[Any]

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.02, 5.0
MOST_AT_ONCE = 200
"""Number of calls that are sent in one piece."""


class Notice:
    """Wakes those who wait, again and again."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        event, self._event = self._event, asyncio.Event()
        event.set()

    def next(self) -> asyncio.Event:
        """Return the event that the next `set` sets. Take it before you look at what it is about."""
        return self._event


class _Work:
    """Commands of one call that wait to be sent or for their replies."""

    __slots__ = ("commands", "confirms", "done", "dropped", "error", "replies", "seconds", "sent", "undo")

    def __init__(
        self,
        commands: Sequence[Command],
        seconds: float,
        undo: Callable[[Replies], None] | None = None,
        confirms: Sequence["_Work"] = (),
    ) -> None:
        self.commands, self.seconds, self.undo, self.confirms = commands, seconds, undo, confirms
        """`confirms` are calls with their replies, which wait for those of these commands (`WAIT`)."""
        self.done = asyncio.Event()
        self.sent = self.dropped = False
        self.replies: Replies = []
        self.error: Exception | None = None

    def end(self, error: Exception | None = None) -> None:
        if not self.done.is_set():
            self.error = error
            self.done.set()
            if error is None and self.dropped and self.undo is not None:
                self.undo(self.replies)


class Line:
    """A connection of one purpose. It is made, and made again when it breaks, while the line is open."""

    def __init__(self, address: Address, *, connect_seconds: float, replicas: int = 0) -> None:
        """`replicas` is the number of those that must have what a call wrote or read before it returns."""
        self._address, self._connect_seconds, self._replicas = address, connect_seconds, replicas
        self._waiting: deque[_Work] = deque()
        self._in_flight: deque[_Work] = deque()
        self._arrived, self._sent, self._wanted = Notice(), Notice(), Notice()
        self._scope = anyio.CancelScope()
        self._closing = False
        self.up = self._has_been_up = False
        self.down = "not connected yet"
        """Reason why there is no connection. Empty while there is one."""
        self.tried = Notice()
        """Is set after each attempt to connect."""

    @property
    def load(self) -> int:
        return len(self._waiting) + len(self._in_flight)

    def close(self) -> None:
        """End the connection now. Calls that wait fail."""
        self._closing = True
        self._scope.cancel()

    def start(self, tasks: TaskGroup) -> None:
        tasks.start_soon(self._serve)

    async def call(
        self, commands: Sequence[Command], seconds: float, undo: Callable[[Replies], None] | None = None
    ) -> Replies:
        """Send commands, and return their replies; errors of the server are among them. Raise `StoreFailed`.

        If the caller goes before the replies are there, `undo` gets them.
        """
        if self._closing:
            raise StoreFailed("the store is not entered")
        if not self.up:
            await self._next_try(seconds)
        work = _Work(commands, seconds, undo)
        self._waiting.append(work)
        self._arrived.set()
        slow = asyncio.get_running_loop().call_later(seconds, self._give_up, work)
        try:
            await work.done.wait()
        except BaseException:
            if work.done.is_set() and work.error is None and undo is not None:
                undo(work.replies)
            work.dropped = True
            raise
        finally:
            slow.cancel()
        if work.error is not None:
            raise work.error
        return work.replies

    async def _next_try(self, seconds: float) -> None:
        """Wait for the next attempt to connect, which is made soon. Raise `StoreFailed` if it fails."""
        tried = self.tried.next()
        self._wanted.set()
        with anyio.move_on_after(seconds):
            await tried.wait()
        if not self.up:
            raise StoreFailed(f"cannot reach Redis: {self.down}")

    def _give_up(self, work: _Work) -> None:
        """Break the connection: the replies on it would be those of earlier calls."""
        if not work.done.is_set():
            self.down = f"no answer within {work.seconds:g} s"
            work.end(StoreFailed(f"Redis did not answer within {work.seconds:g} s; it may have done what was asked"))
            self._scope.cancel()

    # -- the connection ---------------------------------------------------------------------------

    async def _serve(self) -> None:
        with anyio.CancelScope(shield=True):  # ends with `close`
            failures = 0
            while not self._closing:
                with anyio.CancelScope() as self._scope:
                    if failures:
                        await self._pause(failures)
                    failures = 0 if await self._live() else failures + 1
            self._fail_all()
            self.tried.set()

    async def _pause(self, failures: int) -> None:
        """Pause before another attempt to connect: longer with each failure, but not longer than callers wait."""
        wanted = self._wanted.next()
        await anyio.sleep(FIRST_PAUSE_SECONDS * (0.5 + random()))
        with anyio.move_on_after(
            min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(failures, 20)) * (0.5 + random())
        ):
            await wanted.wait()

    async def _live(self) -> bool:
        """Live on one connection until it breaks. Return False if there was none."""
        try:
            connection = await self._address.connect()
        except (*BROKEN, TimeoutError) as error:
            self._note(f"no connection within {self._connect_seconds:g} s" if _slow(error) else said(error))
            self.tried.set()
            return False
        try:
            self.up, self._has_been_up, self.down = True, True, ""
            self.tried.set()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._until_broken, self._write, connection, tasks.cancel_scope)
                tasks.start_soon(self._until_broken, self._read, connection, tasks.cancel_scope)
        finally:
            self.up = False
            self._note(self.down or "the connection is lost")
            await close(connection)
            self._fail_all()
        return True

    def _note(self, down: str) -> None:
        if self._has_been_up and not self._closing and down != self.down:  # before, whoever connects is told
            logger.info("no connection to Redis: %s", down)
        self.down = down

    def _fail_all(self) -> None:
        for work in (*self._in_flight, *self._waiting):
            for one in (work, *work.confirms):
                one.end(Lost(self.down, sent=one.sent))
        self._in_flight.clear()
        self._waiting.clear()

    async def _until_broken(self, work: Any, connection: Wire, scope: anyio.CancelScope) -> None:
        try:
            await work(connection)
        except BROKEN as error:
            self.down = said(error)
            scope.cancel()

    async def _write(self, connection: Wire) -> None:
        while True:
            arrived = self._arrived.next()
            packed, sent = list[bytes](), list[_Work]()
            is_free = not (self._replicas and self._in_flight)  # what is sent behind a WAIT is not looked at before it
            while self._waiting and is_free and len(packed) < MOST_AT_ONCE:
                work = self._waiting.popleft()
                if not work.dropped:
                    work.sent = True
                    self._in_flight.append(work)
                    packed += connection.pack_commands(work.commands)
                    sent.append(work)
            if sent and self._replicas:  # one wait for all of them, also for those that read: what they saw may be lost
                seconds = min(work.seconds for work in sent) / 3  # a call may come just behind another WAIT
                confirming = _Work([("WAIT", self._replicas, round(seconds * 1000))], seconds, confirms=sent)
                self._in_flight.append(confirming)
                packed += connection.pack_commands(confirming.commands)
            if packed:
                self._sent.set()
                await connection.send_packed_command(packed, check_health=False)
            else:
                await arrived.wait()

    async def _read(self, connection: Wire) -> None:
        while True:
            sent = self._sent.next()
            if not self._in_flight:
                await sent.wait()
                continue
            work = self._in_flight[0]
            for _ in work.commands:
                work.replies.append(await next_reply(connection))
            self._in_flight.popleft()
            work.commands = ()
            if work.confirms:
                error = self._unconfirmed(work.replies[0])
                for one in work.confirms:
                    one.end(error)
                self._arrived.set()
            elif not self._replicas:
                work.end()

    def _unconfirmed(self, reply: Any) -> StoreFailed | None:
        """Return the failure of calls that too few replicas confirm, by the reply to WAIT."""
        if isinstance(reply, int) and reply >= self._replicas:
            return None
        return Unconfirmed(f"{reply} of {self._replicas} replicas" if isinstance(reply, int) else said(reply))


async def next_reply(connection: Wire) -> Any:
    """Return the next reply. An error that does not concern the connection is a reply, too."""
    try:
        return await connection.read_response(disable_decoding=True, disconnect_on_error=False)
    except RedisError as error:
        if breaks(error):
            raise
        return error


def breaks(error: RedisError) -> bool:
    """Return True for an error after which a connection is of no use: broken, or to a server that is no use now."""
    return isinstance(error, ConnectionError | TooSlow | ReadOnlyError) and not isinstance(error, BusyLoadingError)


def _slow(error: BaseException) -> bool:
    return isinstance(error, TimeoutError | TooSlow)
