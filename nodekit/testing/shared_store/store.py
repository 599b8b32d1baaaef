"""Shared stores in one process: their engine runs in a thread of its own, as a server would in its process."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any, Self, TypeVar

import anyio
from anyio.abc import TaskGroup
from anyio.from_thread import BlockingPortal, start_blocking_portal

from nodekit import Change, ClaimRoom, ContainerId, JobId
from nodekit.embedded.change_feed import ChangeFeed
from nodekit.testing.builders.components import make_table
from nodekit.testing.contracts.shared.other_process import awaited, soon_here
from nodekit.testing.shared_store.client import SharedClient
from nodekit.testing.shared_store.engine import OF_SESSION, Engine, Granted, Ticket

T = TypeVar("T")


class SharedMemoryStore(SharedClient):
    """A `SharedStore`: a client of the engine, for one node."""

    _tasks: TaskGroup

    def __init__(self, engine: Engine, portal: BlockingPortal) -> None:
        super().__init__()
        self.engine, self.portal = engine, portal

    @property
    def lease_seconds(self) -> float:
        return self.engine.lease_seconds

    async def __aenter__(self) -> Self:
        self._soon = soon_here()
        self._session = await self._ask(self.engine.open, self._lose_soon)
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(self._renew)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._tasks.cancel_scope.cancel()
        try:
            await self._tasks.__aexit__(None, None, None)
        finally:
            with anyio.CancelScope(shield=True):
                await self._ask(self.engine.leave, self._session)

    async def _ask(self, method: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call the engine; the call completes even if the caller is cancelled."""
        return await awaited(self.portal.start_task_soon(method, *args))

    async def _call(self, method: str, /, namespace: str = "", **arguments: Any) -> Any:
        if method in OF_SESSION:
            arguments["number"] = self._session
        return await self._ask(partial(self.engine.method(method, namespace), **arguments))

    async def _renew(self) -> None:
        while True:
            await anyio.sleep(self.engine.lease_seconds / 4)
            if not await self._ask(self.engine.renew, self._session):
                self._session = await self._ask(self.engine.open, self._lose_soon)

    def _lose_soon(self, token: int) -> None:
        self._soon(lambda: self._lose(token))

    async def _wait(
        self,
        containers: Collection[ContainerId] | None,
        pipelines: Collection[str] | None,
        limit: int,
        suspects: bool,
        room: ClaimRoom | None,
    ) -> Sequence[Granted]:
        wanted = containers, pipelines, limit, suspects, room
        while True:
            ticket = Ticket()
            try:
                granted = await self._ask(self.engine.claim, self._session, ticket, *wanted)
            except BaseException:
                self.portal.start_task_soon(self.engine.give_up, ticket)
                raise
            if not ticket.given_up:
                return granted
            await anyio.sleep(self.engine.lease_seconds / 20)  # the session has lapsed; a new one is opened soon

    @asynccontextmanager
    async def changes(self, ids: Collection[JobId] | None = None) -> AsyncIterator[AsyncIterator[Change | None]]:
        feed, begun, soon = ChangeFeed(), anyio.Event(), soon_here()

        def put(change: Change | None) -> None:
            soon(lambda: feed.publish(change))

        async with feed.subscribe() as changes:
            relay = self.portal.start_task_soon(self.engine.relay, ids, lambda: soon(begun.set), put)
            try:
                await begun.wait()
                yield changes
            finally:
                relay.cancel()


class SharedMemory:
    """An engine with jobs in memory, and the stores on it. It runs while it is entered.

    A cluster of nodes in one process::

        with SharedMemory() as shared:
            async with make_node(store=shared.store(), name="a") as a, make_node(store=shared.store(), name="b") as b:
                job = await a.submit(request)
    """

    portal: BlockingPortal

    def __init__(
        self,
        lease_seconds: float = 1.0,
        *,
        engine: type[Engine] = Engine,
        client: type[SharedMemoryStore] = SharedMemoryStore,
    ) -> None:
        """`lease_seconds` is the time after which others take over the jobs of a node that died."""
        self.engine = engine(make_table(), lease_seconds)
        self._client = client

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.portal = stack.enter_context(start_blocking_portal())
            stack.callback(lambda: self.portal.call(self.portal.stop, True))
            stack.enter_context(self.portal.wrap_async_context_manager(self.engine.store))
            self.portal.start_task_soon(self.engine.run)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def store(self) -> SharedMemoryStore:
        """Return a store on the engine's data, for one node."""
        return self._client(self.engine, self.portal)
