"""Connections to the engine, each with a task of its own that makes one call after the other.

A caller only waits, and may be cancelled by any means: no cancellation reaches a connection in the middle of a
statement. A call that takes too long ends with its connection, whose socket is shut down.
"""

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import random
from typing import Any, TypeAlias, TypeVar

import anyio
import psycopg
from anyio.abc import TaskGroup
from psycopg import AsyncConnection, errors

from nodekit import StoreFailed

logger = logging.getLogger("nodekit.store")
T = TypeVar("T")
Connection: TypeAlias = AsyncConnection[tuple[Any, ...]]

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 5.0
MOST_TRIES = 5
AGAIN = (errors.DeadlockDetected, errors.SerializationFailure)
"""Errors of transactions that can be made again."""
ENDING = (errors.AdminShutdown, errors.CannotConnectNow, errors.CrashShutdown)
"""Errors of a server that ends."""


def said(error: BaseException) -> str:
    """Return what went wrong, in one line, without the password of a URL."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def cut(connection: Connection) -> None:
    """Shut the socket of a connection down, so that whoever waits for it learns that it is gone."""
    with suppress(OSError, psycopg.Error):
        copy = socket.socket(fileno=os.dup(connection.fileno()))
        with copy:
            copy.shutdown(socket.SHUT_RDWR)


def chooses_server(url: str) -> bool:
    """Return True if another connection may reach another server, which takes writes."""
    return "target_session_attrs" in url


async def connect(url: str, seconds: float) -> Connection:
    """Connect. Statements commit by themselves, and are never prepared: a pooler may be in between."""
    with anyio.fail_after(seconds):
        return await AsyncConnection.connect(
            url,
            autocommit=True,
            prepare_threshold=None,
            connect_timeout=max(2, round(seconds)),
            application_name="nodekit",
        )


async def close(connection: Connection) -> None:
    """Close a connection without waiting for the engine."""
    with suppress(psycopg.Error, OSError):
        await connection.close()


class _Work:
    """A call that waits for a connection or is being made."""

    __slots__ = ("call", "done", "dropped", "error", "result", "seconds")

    def __init__(self, call: Callable[[Connection, int], Awaitable[Any]], seconds: float) -> None:
        self.call, self.seconds = call, seconds
        self.done = anyio.Event()
        self.dropped = False
        self.result: Any = None
        self.error: Exception | None = None

    def end(self, error: Exception | None = None) -> None:
        self.error = error
        self.done.set()


class Lines:
    """Some connections of one purpose. They are made, and made again when they break, while the lines are open."""

    def __init__(self, url: str, count: int, *, connect_seconds: float, name: str) -> None:
        self._url, self._count, self._connect_seconds, self._name = url, count, connect_seconds, name
        self._waiting: deque[_Work] = deque()
        self._arrived = asyncio.Event()
        self._useless = (*ENDING, errors.ReadOnlySqlTransaction) if chooses_server(url) else ENDING
        self._connections: dict[int, Connection] = {}
        self._connecting: dict[int, anyio.CancelScope] = {}
        self._closing = False
        self._working = 0
        self.trouble = "not connected yet"
        """Why there is no connection. Empty while there is one."""
        self.connected = Notice()

    def start(self, tasks: TaskGroup) -> None:
        """Begin to connect."""
        for number in range(self._count):
            tasks.start_soon(self._serve, number)

    def close(self, *, at_once: bool) -> None:
        """End all connections: at once, or when the calls that wait have been made."""
        self._closing = True
        self._arrived.set()
        for scope in self._connecting.values():
            scope.cancel()
        if at_once or not self._connections:
            while self._waiting:
                self._waiting.popleft().end(StoreFailed("the store is being left"))
            for connection in self._connections.values():
                cut(connection)

    @property
    def busy(self) -> bool:
        """True while calls wait or are made."""
        return bool(self._waiting or self._working)

    async def run(
        self, call: Callable[[Connection, int], Awaitable[T]], seconds: float, *, kept: bool = False
    ) -> T:
        """Make a call on one of the connections, which also has a number. Raise `StoreFailed`.

        With `kept`, the call is made although its caller has gone.
        """
        if self._closing:
            raise StoreFailed("the store is not entered")
        if not self._connections:
            raise StoreFailed(f"cannot reach PostgreSQL: {self.trouble}")
        work = _Work(call, seconds)
        self._waiting.append(work)
        self._arrived.set()
        try:
            with anyio.fail_after(2 * seconds):
                await work.done.wait()
        except TimeoutError:
            work.dropped = True
            raise StoreFailed(f"no connection to PostgreSQL was free for {2 * seconds:g} s") from None
        except BaseException:
            work.dropped = not kept
            raise
        if work.error is not None:
            raise work.error
        result: T = work.result
        return result

    async def _serve(self, number: int) -> None:
        with anyio.CancelScope(shield=True):
            failures = 0
            while not self._closing:
                connection = await self._connect(number, failures)
                if connection is None:
                    failures += 1
                    continue
                failures = 0
                self._connections[number] = connection
                self.trouble = ""
                self.connected.set()
                try:
                    await self._work(number, connection)
                finally:
                    del self._connections[number]
                    await close(connection)
            self._fail_waiting()

    async def _connect(self, number: int, failures: int) -> Connection | None:
        scope = self._connecting[number] = anyio.CancelScope()
        connection = None
        with scope:
            if failures:
                pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**failures)
                await anyio.sleep(pause * (0.5 + random()))
            try:
                connection = await connect(self._url, self._connect_seconds)
            except (psycopg.Error, OSError, TimeoutError) as error:
                text = f"no connection within {self._connect_seconds:g} s" if isinstance(error, TimeoutError) else said(error)
                if not self._connections:
                    if not self.trouble:
                        logger.warning("PostgreSQL cannot be reached: %s", text)
                    self.trouble = text
                    self._fail_waiting()
        del self._connecting[number]
        return connection

    def _fail_waiting(self) -> None:
        """Fail the calls that wait, if no connection is left that could make them."""
        if not self._connections:
            while self._waiting:
                self._waiting.popleft().end(StoreFailed(f"cannot reach PostgreSQL: {self.trouble}"))

    async def _work(self, number: int, connection: Connection) -> None:
        """Make calls until the connection is of no use any more, or the lines are closed."""
        while not connection.closed:
            while not self._waiting:
                if self._closing:
                    return
                self._arrived.clear()
                await self._arrived.wait()
            work = self._waiting.popleft()
            if not work.dropped and not await self._make(number, connection, work):
                return
            if self._waiting:
                self._arrived.set()

    async def _make(self, number: int, connection: Connection, work: _Work) -> bool:
        """Make a call; return False if the connection is of no use afterwards."""
        slow = asyncio.get_running_loop().call_later(work.seconds, self._give_up, connection, work)
        self._working += 1
        try:
            for tries in range(1, MOST_TRIES + 1):
                try:
                    work.result = await work.call(connection, number)
                    break
                except AGAIN:
                    if tries == MOST_TRIES:
                        raise
            work.end()
        except StoreFailed as error:
            work.end(error)
        except (psycopg.Error, OSError) as error:
            if connection.closed or isinstance(error, self._useless):
                self.trouble = said(error)
                work.end(StoreFailed(f"the connection to PostgreSQL is lost: {said(error)}"))
                return False
            work.end(StoreFailed(f"PostgreSQL refused: {said(error)}"))
        except Exception as error:  # a fault of ours, which is the caller's to raise
            work.end(error)
        finally:
            self._working -= 1
            slow.cancel()
        return not connection.closed

    def _give_up(self, connection: Connection, work: _Work) -> None:
        self.trouble = f"no answer within {work.seconds:g} s"
        work.end(StoreFailed(f"PostgreSQL did not answer within {work.seconds:g} s"))
        cut(connection)


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
