"""Shared stores in one process: their engine runs in a thread of its own, as a server would in its process."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any, Self, TypeVar

import anyio
from anyio.abc import TaskGroup
from anyio.from_thread import BlockingPortal, start_blocking_portal

from nodekit import (
    Announcement,
    Change,
    Claim,
    ClientId,
    ContainerId,
    GroupId,
    Held,
    Job,
    JobId,
    JobQuery,
    Member,
    Outcome,
    Pending,
    QueueState,
    Settlement,
)
from nodekit.embedded.change_feed import Broadcast
from nodekit.testing.builders.components import make_table
from nodekit.testing.contracts.shared.other_process import awaited, soon_here
from nodekit.testing.shared_store.engine import Engine, SharedClaim, Ticket

T = TypeVar("T")


class _Records:
    """The records of a namespace; the engine's thread has them."""

    def __init__(self, store: "SharedMemoryStore", namespace: str) -> None:
        self._store, self._namespace = store, namespace

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        def call(*args: Any, **kwargs: Any) -> Awaitable[Any]:
            records = self._store.engine.store.storage(self._namespace)
            return self._store._ask(partial(getattr(records, method), *args, **kwargs))

        return call


class SharedMemoryStore:
    """A `SharedStore`: a client of the engine, for one node."""

    _tasks: TaskGroup

    def __init__(self, engine: Engine, portal: BlockingPortal) -> None:
        self.engine, self.portal = engine, portal
        self._claims: dict[int, SharedClaim] = {}
        self._lost: set[int] = set()

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
        await self._tasks.__aexit__(None, None, None)
        with anyio.CancelScope(shield=True):
            await self._ask(lambda: self.engine.end(self._session, died=False))

    async def _ask(self, method: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call the engine; the call completes even if the caller is cancelled."""
        return await awaited(self.portal.start_task_soon(method, *args))

    async def _renew(self) -> None:
        while True:
            await anyio.sleep(self.engine.lease_seconds / 4)
            if not await self._ask(self.engine.renew, self._session):
                self._session = await self._ask(self.engine.open, self._lose_soon)

    def _lose_soon(self, token: int) -> None:
        self._soon(lambda: self._lose(token))

    def _lose(self, token: int) -> None:
        self._lost.add(token)
        if token in self._claims:
            self._claims.pop(token).scope.cancel()

    async def claim(
        self, containers: Collection[ContainerId], pipelines: Collection[str], limit: int, *, suspects: bool = True
    ) -> list[Claim]:
        return await self._claim(frozenset(containers), frozenset(pipelines), limit, suspects)

    async def claim_expired(self, limit: int) -> list[Claim]:
        return await self._claim(None, (), limit, True)

    async def _claim(self, containers: Collection[ContainerId] | None, *wanted: Any) -> list[Claim]:
        while True:
            ticket = Ticket()
            try:
                claims = await self._ask(self.engine.claim, self._session, ticket, containers, *wanted)
            except BaseException:
                self.portal.start_task_soon(self.engine.give_up, ticket)
                raise
            if not ticket.given_up:
                return [self._hold(claim) for claim in claims]
            await anyio.sleep(self.engine.lease_seconds / 20)  # the session has lapsed; a new one is opened soon

    async def add_claimed(self, job: Job) -> Claim:
        return self._hold(await self._ask(self.engine.add_claimed, self._session, job))

    def _hold(self, claim: SharedClaim) -> Claim:
        claim.scope = anyio.CancelScope()
        self._claims[claim.token] = claim
        if claim.lost or claim.token in self._lost:
            self._lose(claim.token)
        return claim

    async def save(self, claim: Any, job: Job) -> None:
        claim.job = await self._ask(self.engine.save, claim.token, job)

    async def release(self, claim: Any, job: Job, *, delay_seconds: float = 0) -> None:
        claim.job = await self._ask(self.engine.release, claim.token, job, delay_seconds)
        self._claims.pop(claim.token, None)

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        return await self._ask(self.engine.store.add, jobs)

    async def settle(self, id: JobId, outcome: Outcome, *, client: ClientId | None, **call: Any) -> Settlement | None:
        return await self._ask(lambda: self.engine.settle(id, outcome, client, **call))

    async def get(self, ids: Sequence[JobId], **asked: Any) -> list[Job]:
        return await self._ask(lambda: self.engine.store.get(ids, **asked))

    async def find(self, query: JobQuery) -> list[JobId]:
        return await self._ask(lambda: self.engine.store.find(query))

    async def expire(self, **kept: Any) -> int:
        return await self._ask(lambda: self.engine.store.expire(**kept))

    def storage(self, namespace: str) -> Any:
        return _Records(self, namespace)

    async def delete(self, ids: Sequence[JobId]) -> int:
        return await self._ask(self.engine.store.delete, ids)

    async def pending(self, groups: Collection[GroupId] = ()) -> Pending:
        return await self._ask(self.engine.store.pending, groups)

    @asynccontextmanager
    async def changes(self, ids: Collection[JobId] | None = None) -> AsyncIterator[AsyncIterator[Change | None]]:
        broadcast, begun, soon = Broadcast(), anyio.Event(), soon_here()

        def publish(change: Change | None) -> None:
            broadcast.missed() if change is None else broadcast.publish(change)

        async with broadcast.subscribe() as changes:
            relay = self.portal.start_task_soon(
                self.engine.relay, ids, lambda: soon(begun.set), lambda change: soon(lambda: publish(change))
            )
            try:
                await begun.wait()
                yield changes
            finally:
                relay.cancel()

    async def announce(self, announcement: Announcement) -> None:
        await self._ask(self.engine.announce, self._session, announcement)

    async def nodes(self) -> Sequence[Member]:
        return await self._ask(self.engine.nodes)

    async def now(self) -> float:
        return await self._ask(self.engine.now)

    async def held(self, ids: Collection[JobId]) -> Mapping[JobId, Held]:
        return await self._ask(self.engine.held, ids)

    async def queues(self) -> Mapping[ContainerId, QueueState]:
        return await self._ask(self.engine.queues)


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
            self.portal.start_task_soon(self.engine.watch)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def store(self) -> SharedMemoryStore:
        """Return a store on the engine's data, for one node."""
        return self._client(self.engine, self.portal)
