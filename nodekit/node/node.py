"""A node: components and plugins wired together, and the calls for its clients."""

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Self

import anyio
import msgspec
from msgspec.structs import replace

from nodekit.errors import CompositionError, KeyReused, NodekitError, Refusal, Unavailable
from nodekit.execution.executor import Executor
from nodekit.execution.job_stream import JobStream
from nodekit.execution.transitions import Progress
from nodekit.hooks.manager import Hooks
from nodekit.hooks.mounting import mounted
from nodekit.hooks.mounts import Mount
from nodekit.hooks.observed_store import observed
from nodekit.interfaces.component_calls import Running, asked
from nodekit.interfaces.pipeline import BUILT_IN, Pipeline
from nodekit.interfaces.pipeline import Sequence as SequencePipeline
from nodekit.interfaces.runner import ContainerRunner
from nodekit.interfaces.shared_store import Member, is_shared
from nodekit.interfaces.storage import PluginStorage
from nodekit.interfaces.store import Change, JobStore, Pending, Settlement
from nodekit.interfaces.transport import Transport
from nodekit.model.clock import Clock
from nodekit.model.container import ClientId, Container, ContainerId, GroupId, JobId, Location
from nodekit.model.events import JobFinished
from nodekit.model.identity import Connection, Identity
from nodekit.model.ids import JobIds
from nodekit.model.job import Held, Job, JobRequest, JobStatus, Outcome, RetryFrom
from nodekit.model.limits import DEFAULTS, NodeLimits
from nodekit.model.queries import EVERY_JOB, JobFields, JobQuery
from nodekit.node.admission import Admission
from nodekit.node.cluster import Cluster
from nodekit.node.cluster_page import cluster_page
from nodekit.node.diagnosis import diagnosis
from nodekit.node.emitter import Emitter
from nodekit.node.following import all_finished, following
from nodekit.node.health import Health
from nodekit.node.lifespan import Drain, open_components, working
from nodekit.node.paging import check_page
from nodekit.node.plugin_storage import storage_of
from nodekit.node.resources import AT_ONCE, describe
from nodekit.node.retention import Retention
from nodekit.node.validation import misfits, placed_components
from nodekit.node.waiters import Waiters


class Node:
    """One composed, running node. The constructor wires and acquires nothing; `async with` runs it, once.

    `limits` bound the work that the node accepts, and its duration. `trace_hooks` logs each call of a plugin's hook.
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
    ) -> None:
        if problems := [*limits.problems(), *misfits(store, runners, transports, pipelines, plugins)]:
            raise CompositionError(problems)
        self.name, self.limits = name, limits
        self.urls: list[str] = []
        """Addresses on which the transports listen, while the node runs."""
        self._hooks = Hooks(plugins, placed_components(store, runners, transports), node=self, trace=trace_hooks)
        self._runners, self._transports = tuple(runners), tuple(transports)
        self.pipelines: Mapping[str, Pipeline] = {BUILT_IN: SequencePipeline(), **pipelines}
        self._clock = Clock()
        self._ids = JobIds(self._clock)
        self._describing = anyio.Semaphore(AT_ONCE)
        self._stack: AsyncExitStack | None = None
        self._wire(store)
        pages = [("store", "the cluster", [cluster_page(store)])] if is_shared(store) else []
        self.mounts: Mapping[str, Mount] = mounted([*pages, *self._hooks.routes()])
        """Routes of plugins by name; transports serve them beside the node's own."""

    def _wire(self, store: JobStore) -> None:
        if self._hooks.store_observed:
            store = observed(store, self._hooks.observe_store)
        self._store = store
        self._running, self._waiters = Running(self._runners), Waiters(store.changes)
        hooks, limits, clock = self._hooks, self.limits, self._clock
        self._emitter = Emitter(hooks.observe if hooks.observed else None)
        self._cluster = cluster = Cluster(
            store,
            clock,
            name=self.name,
            containers={id: container for runner in self._runners for id, container in runner.containers.items()},
            pipelines=self.pipelines,
            running=self._running,
            urls=self.urls,
        )
        progress = Progress(self.pipelines, cluster.containers_of, limits, clock, alone=cluster.store is None)
        self._executor = cluster.executor = Executor(
            store=store,
            runners=self._runners,
            running=self._running,
            progress=progress,
            limits=limits,
            refresh=cluster.refresh if cluster.store else None,
            emit=self._emitter.emit,
            observed=bool(hooks.observed),
            around=hooks.step,
            report_running=cluster.announce_changed,
        )
        self._admission = admission = Admission(
            store=store,
            progress=progress,
            cluster=cluster,
            clock=clock,
            ids=self._ids,
            limits=limits,
            guards=hooks.admit,
            emitter=self._emitter,
        )
        self._drain = Drain(self._executor, self._waiters, admission, cluster, limits.drain_seconds)

    # -- lifespan ---------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._stack is not None:
            raise NodekitError("a node runs once; compose a new one")
        async with AsyncExitStack() as stack:
            await open_components(stack, self._store, self._cluster, self._ids, self._runners)
            for lifespan in self._hooks.lifespans():
                await stack.enter_async_context(lifespan)
            await stack.enter_async_context(self._emitter)
            servers = [partial(transport.serve, self) for transport in self._transports]
            runs = self._hooks.runs()
            await stack.enter_async_context(
                working(
                    servers,
                    runs,
                    self._executor,
                    self._waiters,
                    self._admission,
                    self.drain,
                    Retention(self._store, self.limits, self._clock),
                    self._cluster,
                    self.urls,
                )
            )
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
        return _kept((await self.submit_many([request]))[0])

    async def submit_many(self, requests: Sequence[JobRequest]) -> list[Job | Refusal | Unavailable | KeyReused]:
        """Admit requests one by one and store the admitted ones together. Return an answer for each, in their order.

        If the client has used an idempotency key before, the answer is the job of that time; nothing is admitted.
        """
        return await self._admission.take(requests)

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
        address: str | None = None,
        priority: int | None = None,
        idempotency_key: str | None = None,
        body_digest: str | None = None,
    ) -> Job | None:
        """Submit a failed job once more, as a new job of the same client. Return None if there is no such job.

        It continues with the step that failed, or begins at the `start`. A job that its pipeline failed after its last
        output, and would fail again, can only begin at the start. `address`, `idempotency_key` and `body_digest` belong
        to the present caller, as in a `JobRequest`; the priority stays the old one by default. A stream is retried as a
        job whose output is stored. Raise `NotFailed`, and the errors of `submit`.
        """
        old = next(iter(await self.fetch([id], client=client)), None)
        if old is None:
            return None
        request = old.request.again(
            address=address, priority=priority, idempotency_key=idempotency_key, body_digest=body_digest
        )
        return _kept(await self._admission.take_again(old, request, start))

    async def fetch(
        self, ids: Sequence[JobId], *, client: ClientId | None = None, fields: JobFields = JobFields.ALL
    ) -> list[Job]:
        """Return the jobs among `ids` (of one client), in their order, each once; unknown ones are left out.

        Parts that are not among `fields` may be missing.
        """
        return await self._store.get(ids, client=client, fields=fields)

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

    async def wait(
        self, ids: Sequence[JobId], *, client: ClientId | None = None, fields: JobFields = JobFields.ALL
    ) -> list[Job]:
        """Wait until all jobs are finished, then return them as `fetch` does. For a time limit, cancel the call.

        Raise `NodekitError` if the node does not run, or stops meanwhile.
        """
        await all_finished(self._store, self._waiters, ids, client)
        return await self.fetch(ids, client=client, fields=fields)

    def follow(self, id: JobId, *, client: ClientId | None = None) -> AsyncGenerator[Job, None]:
        """Yield the job as it is now and after each change, until it is finished. Yield nothing for an unknown job."""
        return following(self._store, self._waiters, id, client)

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
        identity = await self._hooks.identify(connection)
        return identity or Identity(client=connection.client, address=connection.address)

    async def held(self, ids: Sequence[JobId]) -> Mapping[JobId, Held]:
        """Return the calls of containers that are under way right now, for those of the jobs that have one.

        For a call on another node, `since` is the time at which that node got the step, which it may not have begun
        yet, and `instance` is empty.
        """
        calls = self._executor.under_way
        held = {id: Held(self.name, *calls[id]) for id in ids if id in calls}
        if (store := self._cluster.store) is not None and (others := [id for id in ids if id not in held]):
            held |= {id: call for id, call in (await store.held(others)).items() if call.node != self.name}
        return held

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

        Transports call this before they look at a request.
        """
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
        """Return the containers that can be called right now: on any node of the store, or only on this one."""
        running = self._running.look()
        return running if here else running | self._cluster.elsewhere

    @property
    def in_flight(self) -> int:
        """Number of jobs that run right now, streams included."""
        return self._executor.running

    async def pending(self, groups: Collection[GroupId] = ()) -> Pending:
        """Return the counts of unfinished jobs: of all, and of those of some groups.

        Raise `StoreFailed` if the store fails to answer.
        """
        return await asked(partial(self._store.pending, groups))

    async def resources(self, model_id: str | None = None) -> Mapping[ContainerId, msgspec.Raw]:
        """Return the descriptions of this node's running containers as JSON.

        Containers that fail or take over 3 s are left out.
        """
        return await describe(self._runners, self._running.look(), model_id, self._describing)

    async def health(self) -> Health:
        """Check that store and executor work and that a container can be called. It reads the store once."""
        reported = self._hooks.problems()
        return await diagnosis(self._store, self._running, self._executor, self._admission, self._cluster, reported)


def _kept(answer: Job | NodekitError) -> Job:
    if isinstance(answer, NodekitError):
        raise answer
    return answer
