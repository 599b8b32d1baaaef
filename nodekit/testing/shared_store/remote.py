"""A shared store whose engine is a server: it connects, connects again, and agrees with the engine on its claims."""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
from anyio.abc import ByteStream, TaskGroup, TaskStatus

from nodekit import (
    Announcement,
    Change,
    ClaimLost,
    ClaimRoom,
    Clock,
    ContainerId,
    Job,
    JobFields,
    JobId,
    NodekitError,
    StoreFailed,
    SystemClock,
)
from nodekit.concurrency.signal import Signal
from nodekit.embedded.change_feed import ChangeFeed
from nodekit.testing.shared_store.client import SharedClient
from nodekit.testing.shared_store.engine import Granted, Welcome
from nodekit.testing.shared_store.line import Line
from nodekit.testing.shared_store.wire import BROKEN, Frames, ProtocolError, Request, encode, parts, raw

T = TypeVar("T")

_FIRST_PAUSE_SECONDS = 0.01


class _Subscription:
    """A subscription to changes, and the connection on which the engine knows of it."""

    def __init__(self, ids: Collection[JobId] | None) -> None:
        self.ids = ids
        self.changes = ChangeFeed()
        self.line: Line | None = None
        self.number = 0

    async def begin(self, line: Line) -> None:
        self.line, self.number = line, await line.follow(self.ids, self.changes.publish)

    def end(self) -> None:
        if self.line is not None:
            self.line.unfollow(self.number)


class SharedServerStore(SharedClient):
    """A `SharedStore` on the engine that listens at an address, as `SharedServer` starts it."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        connect_seconds: float = 5.0,
        clock: Clock | None = None,
        connect: Callable[[], Awaitable[ByteStream]] | None = None,
    ) -> None:
        """`connect_seconds` limits the first connection.

        Later calls are limited by the lease, which the engine reports. `connect` makes a connection to the engine; by
        default, by TCP to the address. It raises `OSError` if it cannot.
        """
        super().__init__()
        self._host, self._port = host, port
        self._clock = SystemClock() if clock is None else clock
        self._connect = partial(anyio.connect_tcp, host, port) if connect is None else connect
        self._lease_seconds = connect_seconds
        self._session: int | None = None
        self._valid_until = -math.inf
        self._line: Line | None = None
        self._connected = Signal()
        self._announced: dict[str, Announcement] = {}
        self._subscriptions: dict[_Subscription, None] = {}
        self._tasks: TaskGroup | None = None

    @property
    def lease_seconds(self) -> float:
        """Time for which the engine keeps a session that is not renewed; known once the store is entered."""
        return self._lease_seconds

    async def __aenter__(self) -> Self:
        self._session = None
        self._claims.clear()
        self._announced.clear()
        async with AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(anyio.create_task_group())
            failure: StoreFailed | None = await tasks.start(self._stay_connected)
            if failure is None:
                self._stack, self._tasks = stack.pop_all(), tasks
                tasks.start_soon(self._watch_lease)
        if failure is not None:  # raised here, where the task group does not wrap it
            raise failure
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()
        self._tasks = None
        self._connected.set()
        try:
            await self._stack.__aexit__(None, None, None)
        finally:
            await self._leave()

    async def _leave(self) -> None:
        """End the session, over a connection of its own: the other one may be cut in the middle of a frame."""
        leave = Request(1, "leave", raw({"session": self._session}))
        with anyio.move_on_after(self.lease_seconds, shield=True), suppress(ProtocolError, *BROKEN):
            async with await self._connect() as stream:
                frames = Frames(stream)
                await frames.send(encode(leave))
                await frames.receive()

    # -- the connection ---------------------------------------------------------------------------

    async def _stay_connected(self, *, task_status: TaskStatus[StoreFailed | None]) -> None:
        """Connect, and connect again whenever the connection breaks. Report if the first attempt failed."""
        pause, started = _FIRST_PAUSE_SECONDS, False

        def begun() -> None:
            nonlocal pause, started
            pause = _FIRST_PAUSE_SECONDS
            if not started:
                started = True
                task_status.started(None)

        while True:
            try:
                await self._live(begun)
            except StoreFailed as error:
                if not started:
                    return task_status.started(error)
            await anyio.sleep(pause)
            pause = min(2 * pause, self.lease_seconds / 4)

    async def _live(self, begun: Callable[[], None]) -> None:
        """Live on one connection until it breaks. Raise `StoreFailed` if there is none."""
        failure: StoreFailed | None = None
        try:
            with anyio.fail_after(self.lease_seconds):
                stream = await self._connect()
        except (OSError, TimeoutError) as error:
            raise StoreFailed(f"cannot reach the engine at {self._host}:{self._port}: {error}") from error
        async with stream, anyio.create_task_group() as tasks:
            line = Line(stream, self._lose, self._renewed, self._clock)
            tasks.start_soon(line.run)
            try:
                await self._begin(line)
                self._line = line
                self._connected.set()
                begun()
                await self._renew(line)
            except StoreFailed as error:
                failure = error
            finally:
                self._line = None
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _begin(self, line: Line) -> None:
        """Go on with the session, or begin one. Agree with the engine on claims, announcements and subscriptions."""
        began_at, earlier, tokens = self._clock.monotonic(), self._session, list(self._claims)
        welcome: Welcome = await self._ask(line, "resume", session=earlier, tokens=tokens)
        self._session, self._lease_seconds = welcome.session, welcome.lease_seconds
        self._renewed(began_at)  # again, since the first answer has told how long a lease is
        for token in welcome.lost:
            self._lose(token)
        if self._session != earlier:
            for announcement in self._announced.values():
                await self._ask(line, "announce", announcement=announcement)
        while unknown := [one for one in self._subscriptions if one.line is not line]:
            for subscription in unknown:
                await self._answered(subscription.begin(line))
                subscription.changes.publish(None)
        if given_up := [token for token in tokens if token not in self._claims]:  # meanwhile; the engine keeps these
            line.give_back(given_up)

    async def _renew(self, line: Line) -> None:
        """Renew the session until the connection breaks, or hangs."""
        while not line.gone.is_set():
            if not await self._ask(line, "renew"):
                await self._begin(line)
            with anyio.move_on_after(self.lease_seconds / 4):
                await line.gone.wait()

    async def _ask(self, line: Line, method: str, **arguments: Any) -> Any:
        return await self._answered(line.call(method, **arguments))

    async def _answered(self, call: Coroutine[Any, Any, T]) -> T:
        """Make a call of the connection's own. Raise `StoreFailed` if it is not answered in half a lease."""
        answers: list[T] = []
        failure = StoreFailed(f"the engine at {self._host}:{self._port} does not answer")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._limit, tasks.cancel_scope)
            try:
                answers.append(await call)
            except NodekitError as error:
                failure = StoreFailed(str(error))
            tasks.cancel_scope.cancel()
        if not answers:
            raise failure
        return answers[0]

    async def _limit(self, scope: anyio.CancelScope) -> None:
        for _ in range(2):  # if this event loop stood still, the answer may be here already: it gets the second half
            await anyio.sleep(self.lease_seconds / 4)
        scope.cancel()

    def _renewed(self, at: float) -> None:
        self._valid_until = at + self.lease_seconds

    async def _watch_lease(self) -> None:
        """Give up all claims when the engine was out of reach for a lease: others may run their jobs now."""
        pause = self.lease_seconds / 20
        while True:
            await anyio.sleep(pause)
            if self._clock.monotonic() >= self._valid_until:
                await anyio.sleep(pause)  # if this event loop stood still, the answer may be here already
            if self._claims and self._clock.monotonic() >= self._valid_until:
                given_up = list(self._claims)
                for token in given_up:
                    self._lose(token)
                if self._line is not None:  # the engine may have heard of this client in time, and keeps the claims
                    self._line.give_back(given_up)

    # -- calls ------------------------------------------------------------------------------------

    async def _reached(self) -> Line:
        """Wait until the engine is connected."""
        while self._line is None or self._line.gone.is_set():
            self._check_open()
            await self._connected.wait()
        return self._line

    def _check_open(self) -> None:
        if self._tasks is None:
            raise StoreFailed("the store is not entered")

    async def _call(self, method: str, /, namespace: str = "", **arguments: Any) -> Any:
        self._check_open()
        try:
            with anyio.fail_after(self.lease_seconds):
                line = await self._reached()
                return await line.call(method, namespace, **arguments)
        except TimeoutError as error:
            text = f"the engine at {self._host}:{self._port} did not answer within {self.lease_seconds:g} s"
            raise StoreFailed(f"{text}; it may have done what was asked") from error

    async def _wait(
        self,
        containers: Collection[ContainerId] | None,
        pipelines: Collection[str] | None,
        limit: int,
        suspects: bool,
        room: ClaimRoom | None,
    ) -> Sequence[Granted]:
        wanted: dict[str, Any] = {
            "containers": containers,
            "pipelines": pipelines,
            "limit": limit,
            "suspects": suspects,
        }
        if room is not None:
            wanted["room"] = room
        while True:
            line = await self._reached()
            try:
                granted: Sequence[Granted] = await line.call("claim", **wanted)
            except StoreFailed:
                if not line.gone.is_set():
                    raise
            else:
                if granted:
                    return granted
            await anyio.sleep(self.lease_seconds / 20)  # a new session or connection begins soon

    async def get(
        self, ids: Sequence[JobId], *, client: str | None = None, fields: JobFields = JobFields.ALL
    ) -> list[Job]:
        return parts(await super().get(ids, client=client, fields=fields), fields)

    async def save(self, claim: Any, job: Job) -> None:
        self._check_held(claim)
        await super().save(claim, job)

    async def release(self, claim: Any, job: Job, *, delay_seconds: float = 0) -> None:
        self._check_held(claim)
        await super().release(claim, job, delay_seconds=delay_seconds)

    def _check_held(self, claim: Any) -> None:
        if claim.token in self._lost:
            raise ClaimLost("the claim was taken over, settled, or not renewed in time")

    async def announce(self, announcement: Announcement) -> None:
        self._announced[announcement.incarnation] = announcement
        await super().announce(announcement)

    @asynccontextmanager
    async def changes(self, ids: Collection[JobId] | None = None) -> AsyncIterator[AsyncIterator[Change | None]]:
        self._check_open()
        subscription = _Subscription(None if ids is None else frozenset(ids))
        async with subscription.changes.subscribe() as changes:
            self._subscriptions[subscription] = None
            try:
                if self._line is not None:
                    with anyio.move_on_after(self.lease_seconds), suppress(StoreFailed):
                        await subscription.begin(self._line)  # otherwise with the next connection
                yield changes
            finally:
                self._subscriptions.pop(subscription, None)
                subscription.end()
