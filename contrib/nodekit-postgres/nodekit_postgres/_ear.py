"""News between nodes: a connection that listens, and notifications that are sent after the commits, several at once."""

import logging
from asyncio import get_running_loop
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any
from uuid import uuid4

import anyio
import msgspec
import psycopg

from nodekit import ContainerId, JobId, StoreFailed
from nodekit_postgres._connecting import Connection, Notice, close, connect, cut, pause_seconds, said

logger = logging.getLogger("nodekit.store")
MOST_BYTES = 7000
"""PostgreSQL takes payloads of less than 8,000 bytes."""
TEST_SECONDS = 3.0
"""Time for the first notification to arrive. Behind a pooler in transaction mode, none does."""


class News(msgspec.Struct, array_like=True, frozen=True):
    """News of one node for the others.

    - `sender`: Name of the sender, which ignores its own news.
    - `jobs`: Ids of changed jobs, each with True if the job has ended.
    - `queued`: Containers for which jobs were queued.
    - `limit_seconds`: Time until the first time limit of these jobs may be over.
    - `missed`: True if jobs have changed that are not among these.
    - `test`: Not empty in a notification that only tests the way.
    """

    sender: str
    jobs: Sequence[tuple[JobId, bool]] = ()
    queued: Sequence[ContainerId] = ()
    limit_seconds: float | None = None
    missed: bool = False
    test: str = ""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(News).decode


class Teller:
    """Tells the other nodes, with as few notifications as possible."""

    def __init__(self, send: Callable[[Sequence[str]], Awaitable[None]]) -> None:
        self.name = uuid4().hex[:12]
        self._send = send
        self._jobs: dict[JobId, bool] = {}
        self._queued: dict[ContainerId, None] = {}
        self._limit_seconds: float | None = None
        self._missed = False
        self._there = Notice()

    def put(
        self,
        jobs: Iterable[tuple[JobId, bool]] = (),
        queued: Iterable[ContainerId] = (),
        *,
        limit_seconds: float | None = None,
        missed: bool = False,
    ) -> None:
        for id, finished in jobs:
            self._jobs[id] = self._jobs.get(id, False) or finished
        self._queued.update(dict.fromkeys(queued))
        limits = [seconds for seconds in (self._limit_seconds, limit_seconds) if seconds is not None]
        self._limit_seconds, self._missed = min(limits, default=None), self._missed or missed
        self._there.set()

    async def run(self) -> None:
        """Send what there is, again and again, until cancelled. If it cannot be sent, others look for themselves."""
        while True:
            there = self._there.next()
            if payloads := self.take():
                try:
                    await self._send(payloads)
                except StoreFailed as error:
                    logger.debug("other nodes are not told: %s", error)
                    self._missed = True
                    await anyio.sleep(1.0)
                continue
            await there.wait()

    def take(self) -> list[str]:
        """Return the payloads of what there is to tell."""
        payloads: list[str] = []
        jobs, queued = list(self._jobs.items()), list(self._queued)
        if not (jobs or queued or self._missed):
            return []
        limit, missed = self._limit_seconds, self._missed
        self._jobs, self._queued, self._limit_seconds, self._missed = {}, {}, None, False
        while jobs or queued or missed or not payloads:
            part, size = list[tuple[JobId, bool]](), 200
            while jobs and (size := size + len(_encode(jobs[-1])) + 1) < MOST_BYTES:
                part.append(jobs.pop())
            containers = list[ContainerId]()
            while not jobs and queued and (size := size + len(_encode(queued[-1])) + 1) < MOST_BYTES:
                containers.append(queued.pop())
            if not part and not containers and (jobs or queued):  # a name that fits into no notification
                jobs, queued, missed = [], [], True
            payloads.append(_encode(News(self.name, part[::-1], containers, limit, missed)).decode())
            limit, missed = None, False
            if not jobs and not queued:
                break
        return payloads


class Ear:
    """A connection that listens. It is made again when it breaks, and what was missed meanwhile is reported."""

    def __init__(
        self,
        url: str,
        channel: str,
        *,
        connect_seconds: float,
        beat_seconds: float,
        test: Callable[[str], Awaitable[None]],
        hear: Callable[[News], None],
        missed: Callable[[], None],
    ) -> None:
        self._url, self._channel = url, channel
        self._connect_seconds, self._beat_seconds = connect_seconds, beat_seconds
        self._test, self._hear, self._missed = test, hear, missed
        self._name = ""
        self._connection: Connection | None = None
        self._scope = anyio.CancelScope()
        self._closing = False
        self.tested = anyio.Event()
        """Is set when the first test has ended."""
        self.problem = ""
        """The reason why nothing is heard. Empty while all is well."""

    def close(self) -> None:
        self._closing = True
        self._scope.cancel()
        if self._connection is not None:
            cut(self._connection)

    async def run(self) -> None:
        """Listen until closed."""
        with anyio.CancelScope(shield=True):
            failures = 0
            while not self._closing:
                with anyio.CancelScope() as self._scope:
                    if self._closing:
                        return
                    if failures:
                        await anyio.sleep(pause_seconds(failures))
                    try:
                        self._connection = await connect(self._url, self._connect_seconds)
                    except (psycopg.Error, OSError, TimeoutError) as error:
                        failures += 1
                        self.problem = f"the connection that listens cannot be made: {said(error) or 'no answer'}"
                        self.tested.set()
                        continue
                if self._connection is None:
                    continue
                try:
                    await self._listen(self._connection)
                except (psycopg.Error, OSError, StoreFailed) as error:
                    failures += 1
                    if not self._closing:
                        self.problem = f"the connection that listens is lost: {said(error)}"
                else:
                    failures = 0
                finally:
                    await close(self._connection)
                    self._connection = None

    async def _listen(self, connection: Connection) -> None:
        await self._limited(connection, lambda: connection.execute(f'LISTEN "{self._channel}"'.encode()))
        heard = anyio.Event()
        mark = uuid4().hex
        broken: psycopg.Error | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._try, mark, heard)
            self._missed()
            try:
                while not self._closing and not connection.closed:
                    async for notification in connection.notifies(timeout=self._beat_seconds):
                        self._take(notification.payload, mark, heard)
                    if not self._closing:
                        await self._limited(connection, lambda: connection.execute("SELECT 1"))
            except psycopg.Error as error:  # not out of the group, which would wrap it
                broken = error
            tasks.cancel_scope.cancel()
        if broken is not None:
            raise broken

    async def _limited(self, connection: Connection, call: Callable[[], Awaitable[Any]]) -> None:
        """Make a call, and cut the connection if it takes too long."""
        slow = get_running_loop().call_later(max(self._beat_seconds, 1.0), cut, connection)
        try:
            await call()
        finally:
            slow.cancel()

    async def _try(self, mark: str, heard: anyio.Event) -> None:
        """Send a notification, and see if it comes. Try again while it cannot be sent."""
        sent = False
        while not sent:
            try:
                await self._test(_encode(News("", test=mark)).decode())
                sent = True
            except StoreFailed:
                self.tested.set()
                await anyio.sleep(self._beat_seconds)
        with anyio.move_on_after(TEST_SECONDS):
            await heard.wait()
        if heard.is_set():
            self.problem = ""
        elif not self._closing:
            self.problem = (
                "no notification arrives: the connection that listens seems to go through a pooler in transaction "
                "mode; name the server itself in listen_url. Until then, this node looks for jobs every second"
            )
            logger.warning("%s", self.problem)
        self.tested.set()

    def _take(self, payload: str, mark: str, heard: anyio.Event) -> None:
        try:
            news = _decode(payload)
        except msgspec.DecodeError:  # of a later version, or of a stranger
            self._missed()
            return
        if news.test:
            if news.test == mark:
                heard.set()
        else:
            self._hear(news)
