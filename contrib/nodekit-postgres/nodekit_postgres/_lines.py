"""Connections to the engine, each with a task of its own that makes one call after the other.

A caller only waits, and may be cancelled by any means: no cancellation reaches a connection in the middle of a
statement. A call that takes too long ends with its connection, whose socket is shut down.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
import psycopg
from anyio.abc import TaskGroup
from psycopg import errors

from nodekit import StoreFailed
from nodekit_postgres._connecting import (
    FIRST_PAUSE_SECONDS,
    Backend,
    Connection,
    Notice,
    backend_of,
    chooses_server,
    close,
    connect,
    cut,
    end,
    pause_seconds,
    said,
)
from nodekit_postgres._errors import refused
from nodekit_postgres._work import Statement, Work

logger = logging.getLogger("nodekit.store")
T = TypeVar("T")
PATIENCE_SECONDS, MOST_PATIENCE_SECONDS = 1.0, 3.0
"""Times for which calls wait after the last connection has broken, and for an attempt to connect."""
MOST_TRIES = 5
MOST_TOGETHER = 32
"""Number of writes that share a transaction."""
AGAIN = (errors.DeadlockDetected, errors.SerializationFailure)
"""Errors of transactions that can be made again."""
ENDING = (errors.AdminShutdown, errors.CannotConnectNow, errors.CrashShutdown)
"""Errors of a server that ends."""


class Server:
    """A server, and the lines to it, which learn from each other that it can or cannot be reached."""

    def __init__(self, url: str, connect_seconds: float, idle_seconds: float = 60.0) -> None:
        """`idle_seconds` is the time after which the server ends a transaction whose client stands still."""
        self.url, self.connect_seconds = url, connect_seconds
        milliseconds = round(1000 * idle_seconds)  # in each transaction: a pooler passes no settings of connections on
        self.bound = f"SET LOCAL idle_in_transaction_session_timeout = {milliseconds}".encode()
        self.hurry = Notice()
        """Is set when the server was reached, or when a call waits for a connection: the time to try again."""
        self.lines: list[Lines] = []
        self._broken: deque[Backend] = deque()

    def broke(self, backend: Backend | None) -> None:
        """Note the process of a connection that has broken. The server may not know, and its locks would stay."""
        if backend is not None:
            self._broken.append(backend)

    async def end_broken(self, connection: Connection) -> None:
        """End the processes of connections that have broken."""
        while self._broken:
            backend = self._broken.popleft()
            try:
                await end(connection, backend)
            except BaseException:
                self._broken.append(backend)
                raise

    def silent(self, since: float) -> None:
        """Cut the idle connections that have not heard anything since a call began that was not answered."""
        for lines in self.lines:
            lines.cut_idle(since)


class Lines:
    """Some connections of one purpose. They are made, and made again when they break, while the lines are open."""

    def __init__(self, server: Server, count: int) -> None:
        self._server, self._count = server, count
        server.lines.append(self)
        self._waiting: deque[Work] = deque()
        self._arrived = asyncio.Event()
        self._useless = (*ENDING, errors.ReadOnlySqlTransaction) if chooses_server(server.url) else ENDING
        self._connections: dict[int, Connection] = {}
        self._backends: dict[int, Backend | None] = {}
        self._idle: dict[int, float] = {}
        """Idle connections, each with the time at which it last heard something."""
        self._connecting: dict[int, anyio.CancelScope] = {}
        self._closing = False
        self._serving = 0
        self.ended = anyio.Event()
        """Is set when all connections have ended."""
        self.cause = "not connected yet"
        """The reason why there is no connection."""
        self._lost_at = 0.0
        self.connected, self._tried = Notice(), Notice()
        self._begun = self._failed = 0
        """Number of attempts to connect that have begun, and of the latest one that has failed."""

    @property
    def bound(self) -> bytes:
        """Statement with which a transaction begins that has several, so that it does not outlive its client."""
        return self._server.bound

    def start(self, tasks: TaskGroup) -> None:
        """Begin to connect."""
        self._serving = self._count
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

    async def run(self, call: Callable[[Connection, int], Awaitable[T]], seconds: float, *, kept: bool = False) -> T:
        """Make a call on one of the connections, which also has a number. Raise `StoreFailed`.

        With `kept`, the call is made although its caller has gone.
        """
        result: T = await self._made(Work(call, seconds, again=not kept), kept=kept)
        return result

    async def write(self, statement: Statement, seconds: float) -> list[tuple[Any, ...]]:
        """Make a write of one statement, and return its rows. Writes that wait together share a commit."""

        async def call(connection: Connection, number: int) -> list[tuple[Any, ...]]:
            return await (await statement.execute(connection, number)).fetchall()

        rows: list[tuple[Any, ...]] = await self._made(Work(call, seconds, statement=statement), kept=True)
        return rows

    async def _made(self, work: Work, *, kept: bool) -> Any:
        seconds = work.seconds
        if self._closing:
            raise StoreFailed("the store is not entered")
        await self._some_connection(seconds)
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
        return work.result

    async def _some_connection(self, seconds: float) -> None:
        """Wait for a connection until the next attempt has failed, or longer if the last one broke just now.

        An attempt that has begun already says nothing of the server as it is now.
        """
        begun = self._begun
        with anyio.move_on_after(min(seconds, MOST_PATIENCE_SECONDS)):
            while not self._connections:
                tried = self._tried.next()
                self._server.hurry.set()
                await tried.wait()
                if self._failed > begun and time.monotonic() - self._lost_at > PATIENCE_SECONDS:
                    break
        if not self._connections:
            raise StoreFailed(f"cannot reach PostgreSQL: {self.cause}")

    def cut_idle(self, since: float) -> None:
        """Cut the idle connections that have heard nothing since a time."""
        for number, heard_at in self._idle.items():
            if heard_at < since:
                cut(self._connections[number])

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
                self.cause = ""
                self.connected.set()
                self._tried.set()
                self._server.hurry.set()
                try:
                    await self._work(number, connection)
                finally:
                    del self._connections[number]
                    self._server.broke(None if self._closing else self._backends[number])
                    if not self._connections:
                        self._lost_at = time.monotonic()
                        self.cause = self.cause or "the connection is lost"
                    await close(connection)
            self._fail_waiting()
        self._serving -= 1
        if not self._serving:
            self.ended.set()

    async def _connect(self, number: int, failures: int) -> Connection | None:
        scope = self._connecting[number] = anyio.CancelScope()
        connection = None
        with scope:
            if failures:
                hurry = self._server.hurry.next()
                await anyio.sleep(FIRST_PAUSE_SECONDS)
                with anyio.move_on_after(pause_seconds(failures)):
                    await hurry.wait()
            self._begun += 1
            attempt = self._begun
            try:
                connection = await connect(self._server.url, self._server.connect_seconds)
                with anyio.fail_after(self._server.connect_seconds):
                    self._backends[number] = await backend_of(connection)
                    await self._server.end_broken(connection)
            except (psycopg.Error, OSError, TimeoutError) as error:
                self._failed = max(self._failed, attempt)
                self._not_connected(error)
                if connection is not None:
                    await close(connection)
                    connection = None
        del self._connecting[number]
        if connection is None:
            self._tried.set()
        return connection

    def _not_connected(self, error: BaseException) -> None:
        seconds = self._server.connect_seconds
        words = f"no connection within {seconds:g} s" if isinstance(error, TimeoutError) else said(error)
        if not self._connections:
            self.cause = words
            if time.monotonic() - self._lost_at > PATIENCE_SECONDS:
                self._fail_waiting()

    def _fail_waiting(self) -> None:
        """Fail the calls that wait, if no connection is left that could make them."""
        if not self._connections:
            while self._waiting:
                self._waiting.popleft().end(StoreFailed(f"cannot reach PostgreSQL: {self.cause}"))

    async def _work(self, number: int, connection: Connection) -> None:
        """Make calls until the connection is of no use any more, or the lines are closed."""
        while not connection.closed:
            while not self._waiting:
                if self._closing:
                    return
                self._arrived.clear()
                if not await self._idled(number, connection):
                    return
            works = self._next()
            if works and not await self._make(number, connection, works):
                return
            if self._waiting:
                self._arrived.set()

    async def _idled(self, number: int, connection: Connection) -> bool:
        """Wait for a call. Return False if the connection breaks meanwhile."""
        loop, readable = asyncio.get_running_loop(), False

        def read() -> None:
            nonlocal readable
            readable = True
            loop.remove_reader(descriptor)
            self._arrived.set()

        descriptor = connection.fileno()
        loop.add_reader(descriptor, read)
        self._idle[number] = time.monotonic()
        try:
            await self._arrived.wait()
            if readable:
                connection.pgconn.consume_input()
                return not connection.closed
        except psycopg.Error as error:
            self.cause = said(error)
            return False
        finally:
            loop.remove_reader(descriptor)
            del self._idle[number]
        return True

    def _next(self) -> list[Work]:
        """Return the next call, or the next ones if they may share a transaction."""
        works: list[Work] = []
        while self._waiting and len(works) < MOST_TOGETHER:
            if works and (works[0].statement is None or self._waiting[0].statement is None):
                break
            if not (work := self._waiting.popleft()).dropped:
                works.append(work)
        return works

    async def _make(self, number: int, connection: Connection, works: list[Work]) -> bool:
        """Make calls; return False if the connection is of no use afterwards."""
        seconds = works[0].seconds / 2 if works[0].again else works[0].seconds
        slow = asyncio.get_running_loop().call_later(seconds, self._give_up, connection, works, seconds)
        for work in works:
            work.since = time.monotonic()
        try:
            if len(works) > 1 and await self._together(number, connection, works):
                return not connection.closed
            for work in works:
                await self._alone(number, connection, work)
                if connection.closed or isinstance(work.error, _Lost):
                    self._lost(works, work.error)
                    return False
        finally:
            slow.cancel()
        return not connection.closed

    async def _together(self, number: int, connection: Connection, works: list[Work]) -> bool:
        """Make writes in one transaction and one round trip. Return False if each has to be made alone."""
        try:
            async with connection.pipeline(), connection.transaction():
                await connection.execute(self.bound)
                cursors = [await work.statement.execute(connection, number) for work in works if work.statement]
            for work, cursor in zip(works, cursors, strict=True):
                work.result = await cursor.fetchall()
        except (psycopg.Error, OSError) as error:
            if connection.closed or isinstance(error, self._useless):
                self._lost(works, error)
                return True
            return False
        except Exception:  # a fault of ours: the call that has it raises it
            return False
        for work in works:
            work.end()
        return True

    async def _alone(self, number: int, connection: Connection, work: Work) -> None:
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
                self._lost([work], error)
            else:
                work.end(refused(error))
        except Exception as error:  # a fault of ours, which is the caller's to raise
            work.end(error)

    def _lost(self, works: list[Work], error: BaseException | None) -> None:
        """End calls whose connection is lost, or make them again if they only read."""
        self.cause = self.cause if error is None or isinstance(error, StoreFailed) else said(error)
        for work in works:
            if work.again and not work.done.is_set():
                work.again = False
                self._waiting.appendleft(work)
                self._arrived.set()
            else:
                work.end(_Lost(f"the connection to PostgreSQL is lost: {self.cause}"))

    def _give_up(self, connection: Connection, works: list[Work], seconds: float) -> None:
        self.cause = f"no answer within {seconds:g} s"
        for work in works:
            if not work.again:
                work.end(_Lost(f"PostgreSQL did not answer within {seconds:g} s"))
        cut(connection)
        self._server.silent(works[0].since)


class _Lost(StoreFailed):
    """The connection of a call is lost."""
