"""The connection that listens: what the scripts publish on one channel, on whichever node they were called.

A message only counts as heard behind a marker, which this node publishes itself: once its own marker has come back,
everything that was published before it has arrived. The markers also show that the connection works.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from random import random
from typing import Any, NamedTuple
from uuid import uuid4

import anyio

from nodekit import ContainerId, JobId, StoreFailed
from nodekit_redis._address import BROKEN, Address, Wire, close
from nodekit_redis._errors import said
from nodekit_redis._line import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Notice
from nodekit_redis._rows import quoted

logger = logging.getLogger("nodekit.store")
_MARKER = b"m "


class News(NamedTuple):
    """The news that a script tells of a job.

    - `id`: Empty if a node tells of jobs that were queued before.
    - `due`: Quoted name of the container for which others may claim it now; empty if it is not queued, or if its own
      node looks first.
    - `seconds_left`: Time until its time limit is over, if it is queued and has one.
    """

    id: JobId
    ended: bool
    due: str
    seconds_left: float | None


class Teller:
    """Tells other nodes of jobs that this node has queued and does not take. Scripts have not told of them."""

    def __init__(self, publish: Callable[[bytes], Awaitable[None]]) -> None:
        self._publish = publish
        self._containers: dict[ContainerId, None] = {}
        self._there, self._telling = Notice(), anyio.Lock()

    def put(self, containers: Collection[ContainerId]) -> None:
        self._containers.update(dict.fromkeys(containers))
        self._there.set()

    async def run(self) -> None:
        """Tell what there is, again and again, until cancelled. If it cannot be told, others look for themselves."""
        while True:
            there = self._there.next()
            try:
                await self.tell()
            except StoreFailed as error:
                logger.debug("other nodes are not told: %s", error)
                await anyio.sleep(1.0)
                continue
            await there.wait()

    async def tell(self) -> None:
        """Tell what there is. Raise `StoreFailed`; it is kept then."""
        async with self._telling:
            containers, self._containers = self._containers, {}
            if not containers:
                return
            try:
                await self._publish("\n".join(f"0 - {quoted(container)} " for container in containers).encode())
            except BaseException:
                self._containers = containers | self._containers
                raise


class Ear:
    """A subscription that is made again when it breaks.

    `missed` is called whenever something may not have been heard.
    """

    def __init__(
        self,
        address: Address,
        channel: str,
        *,
        connect_seconds: float,
        beat_seconds: float,
        publish: Callable[[bytes], Awaitable[None]],
        hear: Callable[[News], None],
        missed: Callable[[], None],
    ) -> None:
        self._address, self._channel = address, channel
        self._connect_seconds, self._beat_seconds = connect_seconds, beat_seconds
        self._publish, self._hear, self._missed = publish, hear, missed
        self._markers: dict[bytes, anyio.Event] = {}
        self._scope = anyio.CancelScope()
        self._closing = False
        self._tested = Notice()
        self.problem = "the connection that listens is not made yet"
        """Reason why nothing is heard. Empty while all is well."""

    def close(self) -> None:
        self._closing = True
        self._scope.cancel()

    async def caught_up(self) -> None:
        """Return when what was published until now has been heard. If nothing is heard now, return at once: `missed`
        is called when that is over."""
        if not self.problem:
            try:
                await self._mark(self._beat_seconds)
            except (StoreFailed, TimeoutError):
                self._scope.cancel()

    def tested(self) -> asyncio.Event:
        """Return the event that is set when it has been tried next."""
        return self._tested.next()

    async def run(self) -> None:
        """Listen until closed."""
        with anyio.CancelScope(shield=True):  # ends with `close`
            failures = 0
            while not self._closing:
                with anyio.CancelScope() as self._scope:
                    if failures:
                        pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(failures, 20))
                        await anyio.sleep(pause * (0.5 + random()))
                    failures += 1
                    if await self._listen():
                        failures = 0

    async def _listen(self) -> bool:
        """Listen on one connection until it breaks. Return True if something was heard on it."""
        connection: Wire | None = None
        try:
            connection = await self._address.connect()
            with anyio.fail_after(self._connect_seconds):
                await connection.send_command("SUBSCRIBE", self._channel)
                await connection.read_response(disable_decoding=True)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._test, tasks.cancel_scope)
                await self._read(connection)
        except* BROKEN as group:
            self._fails(f"the connection that listens is lost: {said(group.exceptions[0])}")
        finally:
            heard = not self.problem
            self._fails(self.problem or "the connection that listens is lost")
            if connection is not None:
                await close(connection)
        return heard

    def _fails(self, problem: str) -> None:
        if not self._closing and not self.problem:
            logger.info("%s", problem)
        self.problem = problem
        self._tested.set()

    async def _read(self, connection: Wire) -> None:
        while True:
            message: Any = await connection.read_response(disable_decoding=True)
            if message[0] != b"message":
                continue
            if message[2].startswith(_MARKER):
                if event := self._markers.get(message[2]):
                    event.set()
                continue
            for line in message[2].split(b"\n"):
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            ended, left, due, id = line.decode().split(" ", 3)
            seconds_left = None if left == "-" else float(left)
        except ValueError:  # of a later version, or of a stranger
            return self._missed()
        return self._hear(News(id, ended == "1", "" if due == "-" else due, seconds_left))

    async def _test(self, scope: anyio.CancelScope) -> None:
        """Send markers, and see if they come. Without an answer, the connection is given up."""
        try:
            while True:
                await self._mark(self._connect_seconds if self.problem else self._beat_seconds)
                if self.problem:
                    self.problem = ""
                    self._missed()
                    self._tested.set()
                await anyio.sleep(self._beat_seconds)
        except (StoreFailed, TimeoutError) as error:
            self._fails(f"no message arrives: {error}" if isinstance(error, StoreFailed) else "no message arrives")
            scope.cancel()

    async def _mark(self, seconds: float) -> None:
        marker = _MARKER + uuid4().hex.encode()
        event = self._markers[marker] = anyio.Event()
        try:
            with anyio.fail_after(seconds):
                await self._publish(marker)
                await event.wait()
        finally:
            del self._markers[marker]
