"""A node: components and plugins wired together, and the calls for its clients."""

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from random import Random
from types import MappingProxyType, TracebackType
from typing import Self

import anyio
import msgspec
from msgspec.structs import replace

from nodekit.embedded.pages import page_of
from nodekit.errors import CompositionError, KeyReused, NodekitError, Refusal, Unavailable
from nodekit.execution.job_stream import JobStream
from nodekit.hooks.manager import Hooks
from nodekit.hooks.mounting import mounted
from nodekit.hooks.mounts import Mount
from nodekit.interfaces.component_calls import asked
from nodekit.interfaces.pipeline import BUILT_IN, Pipeline
from nodekit.interfaces.pipeline import Sequence as SequencePipeline
from nodekit.interfaces.runner import ContainerRunner
from nodekit.interfaces.shared_store import Member, is_shared
from nodekit.interfaces.storage import PluginStorage
from nodekit.interfaces.store import Change, JobStore, Pending, Settlement
from nodekit.interfaces.transport import Transport
from nodekit.model.clock import Clock, NodeClock, SystemClock
from nodekit.model.container import ClientId, Container, ContainerId, GroupId, JobId, Location
from nodekit.model.events import JobFinished
from nodekit.model.identity import Connection, Identity, works_for
from nodekit.model.job import Held, Job, JobRequest, JobStatus, Outcome, RetryFrom, StepRecord
from nodekit.model.limits import DEFAULTS, NodeLimits
from nodekit.model.queries import EVERY_JOB, JobFields, JobQuery, Page
from nodekit.model.subscription import SubscriptionRequest
from nodekit.node.admission import kept_or_raise
from nodekit.node.cluster_page import cluster_page
from nodekit.node.diagnosis import diagnosis
from nodekit.node.following import all_finished, following
from nodekit.node.health import Health
from nodekit.node.lifespan import check_addresses, open_components, working
from nodekit.node.paging import check_next, check_page
from nodekit.node.plugin_storage import storage_of
from nodekit.node.resources import AT_ONCE, describe
from nodekit.node.retention import Retention
from nodekit.node.store_state import StoreState, store_state
from nodekit.node.validation import misfits, placed_components
from nodekit.node.wiring import Wiring


class Node:
    """One composed, running node. The constructor wires and acquires nothing; `async with` runs it, once.

    `limits` bound the work that the node accepts, and its duration. `trace_hooks` logs each call of a plugin's hook.
    All times come from `clock`, ids and chance from `random`: by default, the system's. Sleeping is the event loop's.
    Raise `CompositionError` if the components do not fit together.
    """

    def __init__(
        self,
        *,
        store: JobStore,
        runners: Sequence[ContainerRunner],
        transports: Sequence[Transport] = (),
        plugins: Sequence[object] = (),
        pipelines: Mapping[str, Pipeline] = MappingProxyType({}),
        name: str = "node",
        limits: NodeLimits = DEFAULTS,
        trace_hooks: bool = False,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None:
        if problems := [*limits.problems(), *misfits(store, runners, transports, pipelines, plugins)]:
            raise CompositionError(problems)
        self.name, self.limits = name, limits
        self.clock: Clock = SystemClock() if clock is None else clock
        """The clock that the node was given. Plugins measure with it; `now` is the time of the jobs."""
        self.random = Random() if random is None else random
        """The source of chance that the node was given."""
        self.urls: list[str] = []
        """Addresses on which the transports listen, while the node runs."""
        trace = self.clock.monotonic if trace_hooks else None
        self._hooks = Hooks(plugins, placed_components(store, runners, transports), node=self, trace=trace)
        self._runners, self._transports = tuple(runners), tuple(transports)
        self.pipelines: Mapping[str, Pipeline] = {BUILT_IN: SequencePipeline(), **pipelines}
        self._clock = NodeClock(self.clock)
        self._describing = anyio.Semaphore(AT_ONCE)
        self._stack: AsyncExitStack | None = None
        wiring = Wiring(
            store,
            self._runners,
            self._hooks,
            name=name,
            pipelines=self.pipelines,
            limits=limits,
            clock=self._clock,
            monotonic=self.clock.monotonic,
            random=self.random,
            urls=self.urls,
        )
        self._store, self._ids, self._running, self._waiters = wiring.store, wiring.ids, wiring.running, wiring.waiters
        self._emitter, self._cluster, self._executor = wiring.emitter, wiring.cluster, wiring.executor
        self._admission, self._drain, self.budget = wiring.admission, wiring.drain, wiring.budget
        """`budget` has the bytes of payloads in memory. Transports reserve bodies and replies in it."""
        pages = [("store", "the cluster", [cluster_page(store)])] if is_shared(store) else []
        self.mounts: Mapping[str, Mount] = mounted([*pages, *self._hooks.routes()])
        """Routes of plugins by name; transports serve them beside the node's own."""

    # -- lifespan ---------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._stack is not None:
            raise NodekitError("a node runs once; compose a new one")
        check_addresses(self._transports)
        async with AsyncExitStack() as stack:
            await open_components(stack, self._store, self._cluster, self._ids, self._runners)
            for lifespan in self._hooks.lifespans():
                await stack.enter_async_context(lifespan)
            await stack.enter_async_context(self._emitter)
            servers = [partial(transport.serve, self) for transport in self._transports]
            retention = Retention(self._store, self.limits, self._clock)
            parts = self._executor, self._waiters, self._admission, self.drain, retention, self._cluster
            await stack.enter_async_context(working(servers, self._hooks.runs(), *parts, self.urls))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._stack is not None
        return await self._stack.__aexit__(kind, error, trace)

    async def drain(self) -> None:
        """Stop taking and beginning jobs; return when none is running, or after the limit `drain_seconds`.

        Requests are refused with `Unavailable` from now on. Waiters and followers of unfinished jobs are served
        meanwhile, and then get the `NodekitError` of a node that has stopped. Leaving the node does all this. Call it
        before where another server has to end its connections first, for example on the signal that ends uvicorn.
        """
        await self._drain()

    # -- what clients ask -------------------------------------------------------------------------

    async def submit(self, request: JobRequest) -> Job:
        """Admit a request and store it durably. Only then does the job exist.

        Raise `Refusal` if a pipeline or guard objects, `Unavailable` while the node takes no work, `TooManyJobs` while
        it takes no work of this client, `KeyReused` if the client used the idempotency key for another request.
        """
        return kept_or_raise((await self.submit_many([request]))[0])

    async def submit_many(self, requests: Sequence[JobRequest]) -> list[Job | Refusal | Unavailable | KeyReused]:
        """Admit requests one by one and store the admitted ones together. Return an answer for each, in their order.

        If the client has used an idempotency key before, the answer is the job of that time; nothing is admitted.
        """
        return await self._admission.take(requests)

    async def subscribe(self, request: SubscriptionRequest, identity: Identity) -> None:
        """Hand a subscription to the plugins. Once this returns, one of them keeps it durably.

        Raise `Refusal` if a plugin objects, or if none takes it (``Chain not enabled``); `Unavailable` if not now.
        """
        await self._admission.subscribe(request, identity)

    @asynccontextmanager
    async def stream(self, request: JobRequest) -> AsyncIterator[JobStream]:
        """Enter the stream of a new job: the bytes of its last container as they arrive. The job is stored before.

        The job runs once the first piece is requested. Leaving before the end cancels it. Its steps wait for slots like
        those of other jobs, but in this node instead of in the queue: if the node goes away, the job fails with
        ``interrupted``. Its result keeps as much of the stream as `StreamRecord` does. Raise the same errors as
        `submit`; the request's idempotency key is ignored.
        """
        asked = replace(request, destination=Location.STREAM, idempotency_key=None, body_digest=None)
        stream = await self._admission.stream(asked, self._executor.stream)
        try:
            yield stream
        finally:
            stream.leave()

    async def retry(
        self,
        id: JobId,
        *,
        start: RetryFrom = "failed",
        client: ClientId | None = None,
        group: GroupId | None = None,
        address: str | None = None,
        priority: int | None = None,
        idempotency_key: str | None = None,
        body_digest: str | None = None,
    ) -> Job | None:
        """Submit a failed job once more, as a new job of the same client. Return None if there is no such job.

        It continues with the step that failed, or begins at the `start`. A job that its pipeline failed after its last
        output, and would fail again, can only begin at the start. `address`, `idempotency_key` and `body_digest` belong
        to the present caller, as in a `JobRequest`; `group` and priority stay the old ones by default. A stream is
        retried as a job whose output is stored. Raise `NotFailed`, and the errors of `submit`.
        """
        old = next(iter(await self.fetch([id], client=client, fields=JobFields.RUN)), None)
        if old is not None and getattr(self.pipelines.get(old.request.pipeline), "needs_all_outputs", False):
            old = next(iter(await self.fetch([id], client=client)), None)
        if old is None:
            return None
        caller = {"address": address, "idempotency_key": idempotency_key, "body_digest": body_digest}
        request = old.request.again(**caller, group=group, priority=priority)
        return kept_or_raise(await self._admission.take_again(old, request, start))

    async def fetch(
        self, ids: Sequence[JobId], *, client: ClientId | None = None, fields: JobFields = JobFields.ALL
    ) -> list[Job]:
        """Return the jobs among `ids` (of one client), in their order, each once; unknown ones are left out.

        Parts that are not among `fields` may be missing.
        """
        return await self._store.get(ids, client=client, fields=fields)

    async def sizes(self, ids: Sequence[JobId]) -> Mapping[JobId, int]:
        """Return the bytes of the payloads of jobs, request and results, without reading them.

        Unknown ones are left out.
        """
        return await self._store.sizes(ids)

    async def steps(self, id: JobId, first: int = 0, most_bytes: int = 1 << 20) -> Sequence[StepRecord]:
        """Return the steps of a job from the index `first` on: as many as have `most_bytes`, at least one if there is.

        So a job that is too large for the memory can be read piece by piece.
        """
        return await self._store.steps(id, first, most_bytes)

    async def find(self, query: JobQuery = EVERY_JOB) -> list[JobId]:
        """Return the ids of jobs that match the query, in its order: by default, of the oldest 1,000 jobs.

        `JobQuery.cursor` of the last of these jobs, which `fetch` reads, is the `after` of the next page. In the order
        ``finished`` that misses nothing, however many jobs finish or are deleted meanwhile. It repeats a job only after
        a write whose answer was lost.

        Raise `StoreFailed` if the store answers a page that does not lead on.
        """
        ids = await self._store.find(query)
        check_page(ids, query)
        return ids

    async def page(self, query: JobQuery = EVERY_JOB) -> Page:
        """Return a page of a search as `find` does, and the cursor of the next one. It may end before its limit."""
        page = await page_of(self._store, query)
        check_next(page, query)
        return page

    async def wait(
        self, ids: Sequence[JobId], *, client: ClientId | None = None, fields: JobFields | None = JobFields.ALL
    ) -> list[Job]:
        """Wait until all jobs are finished, then return them as `fetch` does. For a time limit, cancel the call.

        If `fields` is None, nothing is read in the end, and none is returned.

        Raise `NodekitError` if the node does not run, or stops meanwhile; `TooManyRequests` over the limit `max_waits`.
        """
        await all_finished(self._store, self._waiters, ids, client)
        return [] if fields is None else await self.fetch(ids, client=client, fields=fields)

    def follow(
        self, id: JobId, *, client: ClientId | None = None, fields: JobFields = JobFields.ALL
    ) -> AsyncGenerator[Job, None]:
        """Yield the job as it is now and after each change, until it is finished. Yield nothing for an unknown job."""
        return following(self._store, self._waiters, id, client, fields)

    async def settle(self, id: JobId, outcome: Outcome, *, client: ClientId | None = None) -> Settlement | None:
        """End a job with an outcome from elsewhere and abort its running step. The first end is the only one.

        Return None if there is no such job.
        """
        outcome.check()
        return await self._emitter.to_its_end(partial(self._settle, id, outcome, client))

    async def _settle(self, id: JobId, outcome: Outcome, client: ClientId | None) -> Settlement | None:
        call = (await self.held([id])).get(id)
        settled = await self._store.settle(id, outcome, client=client, call=call)
        if settled is not None and settled.now:
            self._emitter.emit(JobFinished(settled.job))
        return settled

    async def cancel(self, id: JobId, *, client: ClientId | None = None) -> Job | None:
        """Cancel a job and abort its running step. A finished job stays as it is. Return None if there is none."""
        settled = await self.settle(id, Outcome(JobStatus.CANCELLED), client=client)
        return settled.job if settled is not None else None

    @property
    def identifies(self) -> bool:
        """True if a plugin says who sends a request. Otherwise the headers of a `Connection` are not used."""
        return self._hooks.identifies

    async def identify(self, connection: Connection) -> Identity:
        """Return who sends a request, as plugins say; by default the client is the address.

        Transports call this before they look at a request. Raise `Unauthorized`, `Forbidden`, and `NodekitError` if a
        plugin fails.
        """
        return await self._hooks.identify(connection) or Identity(client=connection.client, address=connection.address)

    async def held(self, ids: Sequence[JobId]) -> Mapping[JobId, Held]:
        """Return the calls of containers that are under way right now, for those of the jobs that have one.

        For a call on another node, `since` is the time at which that node got the step, which it may not have begun
        yet, and `instance` is empty.
        """
        return await self._cluster.held(ids, self._executor.under_way)

    def now(self) -> float:
        """Return the time in Unix seconds on the clock of the jobs' times: the engine's, if the store is shared."""
        return self._clock.now()

    async def members(self) -> Sequence[Member]:
        """Return the nodes on the store, this one included: those that live, and those that left or died lately.

        Empty if the store is this node's own.
        """
        return () if (store := self._cluster.store) is None else await store.nodes()

    async def delete(self, ids: Sequence[JobId]) -> int:
        """Delete finished jobs; unfinished and unknown ones are left alone. Return the number of deleted jobs."""
        return await self._store.delete(ids)

    def storage(self, namespace: str) -> PluginStorage:
        """Return the records that a plugin keeps in the store, under a namespace of its own (`KeepsRecords`).

        Raise `NodekitError` if the store keeps no records.
        """
        return storage_of(self._store, namespace)

    def limit(self, identity: Identity) -> None:
        """Raise `TooManyRequests` if the caller sends too many requests.

        Transports call this before they look at a request, in the task that handles it: what that task reads from the
        store is read in the turn of the caller's group.
        """
        works_for(identity.group)
        self._hooks.limit(identity)

    def changes(
        self, ids: Collection[JobId] | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Change | None]]:
        """Subscribe to changes of jobs from now on: of these jobs, or of all.

        None among the changes means that some were missed: look again.
        """
        return self._store.changes(ids)

    # -- how it is --------------------------------------------------------------------------------

    @property
    def containers(self) -> Mapping[ContainerId, Container]:
        """Containers in which jobs can run: those of the node, running or not, and those of the nodes on its store.

        Containers of nodes that left or died are among them for ten minutes: they may come back.
        """
        return self._cluster.containers

    @property
    def own_containers(self) -> Mapping[ContainerId, Container]:
        """Containers of this node's runners, running or not."""
        return MappingProxyType(self._executor.containers)

    def running(self, *, here: bool = False) -> Collection[ContainerId]:
        """Return the containers that can be called right now, sorted: on any node of the store, or only on this one."""
        running = self._running.look()
        return sorted(running if here else running | self._cluster.elsewhere)

    @property
    def chain_address(self) -> str | None:
        """Address of the node on a chain, empty while it has none. None: no plugin takes subscriptions."""
        return self._hooks.chain_address

    @property
    def in_flight(self) -> int:
        """Number of jobs that run right now, streams included."""
        return self._executor.running

    async def pending(self, groups: Collection[GroupId] = ()) -> Pending:
        """Return the counts of unfinished jobs: of all, and of those of some groups.

        Raise `StoreFailed` if the store fails to answer.
        """
        return await asked(partial(self._store.pending, groups))

    async def store_state(self) -> StoreState:
        """Return the queues of the store, and the space of its files. Parts that it fails to say are left out."""
        return await store_state(self._store)

    async def resources(self, model_id: str | None = None) -> Mapping[ContainerId, msgspec.Raw]:
        """Return JSON about this node's running containers. Those that fail or take over 3 s are left out."""
        return await describe(self._runners, self._running.look(), model_id, self._describing)

    async def health(self) -> Health:
        """Check that store and executor work and that a container can be called. It reads the store once."""
        parts = self._store, self._running, self._executor, self._admission, self._cluster, self.budget
        return await diagnosis(*parts, self._hooks.problems())
