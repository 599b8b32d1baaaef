"""A node: parts and plugins wired together, and what its clients can ask of it."""

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
from nodekit.interfaces.asking import Running, asked
from nodekit.interfaces.pipeline import BUILT_IN, Pipeline
from nodekit.interfaces.pipeline import Sequence as SequencePipeline
from nodekit.interfaces.runner import ContainerRunner
from nodekit.interfaces.store import JobStore, Pending, Settlement
from nodekit.interfaces.transport import Transport
from nodekit.model.container import ClientId, Container, ContainerId, JobId, Location
from nodekit.model.events import JobFinished
from nodekit.model.ids import JobIds
from nodekit.model.job import Job, JobRequest, JobStatus, Outcome, RetryFrom
from nodekit.model.limits import DEFAULTS, NodeLimits
from nodekit.node.admission import Intake
from nodekit.node.diagnosis import diagnosis
from nodekit.node.following import finished, following
from nodekit.node.health import Health
from nodekit.node.lifespan import open_parts, working
from nodekit.node.paging import check_page
from nodekit.node.resources import AT_ONCE, describe
from nodekit.node.telling import Telling
from nodekit.node.validation import misfits, placed_parts
from nodekit.node.waiters import Waiters


class Node:
    """One composed, running thing. The constructor wires and acquires nothing; `async with` runs it, once.

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
        """Where its transports listen, while it runs."""
        self._hooks = Hooks(plugins, placed_parts(store, runners, transports), trace=trace_hooks)
        self._runners, self._transports = tuple(runners), tuple(transports)
        self.pipelines: Mapping[str, Pipeline] = {BUILT_IN: SequencePipeline(), **pipelines}
        self._ids = JobIds()
        self._describing = anyio.Semaphore(AT_ONCE)
        self._stack: AsyncExitStack | None = None
        self._containers = {id: container for runner in runners for id, container in runner.containers.items()}
        self._wire(store)
        self.mounts: Mapping[str, Mount] = mounted(self._hooks.routes(self))
        """What plugins have transports serve beside the node's own routes, by name."""

    def _wire(self, store: JobStore) -> None:
        if self._hooks.store_observed:
            store = observed(store, lambda call: self._hooks.observe_store(call, self))
        self._store = store
        self._running, self._waiters = Running(self._runners), Waiters(store.changes)
        hooks, limits = self._hooks, self.limits
        self._telling = Telling(lambda: hooks.observed, lambda event: hooks.observe(event, self))
        progress = Progress(self.pipelines, self._containers, limits)
        self._executor = Executor(
            store=store,
            runners=self._runners,
            running=self._running,
            progress=progress,
            concurrency=limits.concurrency,
            tell=self._telling.tell,
        )
        self._intake = Intake(
            store=store,
            progress=progress,
            ids=self._ids,
            limits=limits,
            guards=lambda request: hooks.admit(request, self),
            telling=self._telling,
        )

    # -- lifespan ---------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._stack is not None:
            raise NodekitError("a node runs once; compose a new one")
        async with AsyncExitStack() as stack:
            await open_parts(stack, self._store, self._ids, self._runners)
            for lifespan in self._hooks.lifespans(self):
                await stack.enter_async_context(lifespan)
            await stack.enter_async_context(self._telling)
            servers = [partial(transport.serve, self) for transport in self._transports]
            drain_seconds = self.limits.drain_seconds
            await stack.enter_async_context(
                working(servers, self._executor, self._waiters, self._intake, drain_seconds, self.urls)
            )
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._stack is not None
        return await self._stack.__aexit__(kind, error, trace)

    # -- what clients ask -------------------------------------------------------------------------

    async def submit(self, request: JobRequest) -> Job:
        """Admit a request and keep it durably; only then is there a job.

        Raises `Refusal` where it is objected to, `Unavailable` while the node takes no work, `TooManyJobs` while it
        takes none of this client, `KeyReused` where the client used the idempotency key for another request.
        """
        return _kept((await self.submit_many([request]))[0])

    async def submit_many(self, requests: Sequence[JobRequest]) -> list[Job | Refusal | Unavailable | KeyReused]:
        """Admit requests one by one and keep the admitted ones at once; an answer for each, in their order.

        One whose idempotency key its client has used before is answered by the job of then, without being admitted.
        """
        return await self._intake.take(requests)

    @asynccontextmanager
    async def stream(self, request: JobRequest) -> AsyncIterator[JobStream]:
        """A job whose last container's bytes are handed on as they come; it is kept before the stream is there.

        It runs once the first piece is asked for. Leaving before its end cancels it. Its steps wait for slots as those
        of other jobs do, but here and not in the queue: a node that goes away fails it with ``interrupted``. Its result
        has as much of the stream as a `StreamRecord` keeps. Raises as `submit`; a request's key is of no use here.
        """
        asked = replace(request, destination=Location.STREAM, idempotency_key=None, body_digest=None)
        stream = await self._intake.stream(asked, self._executor.stream)
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
        """Submit a job that failed once more, as a new one of the same client. None: there is no job to retry.

        It goes on with the step that failed, or begins at the `start`; one that its pipeline let fail after its last
        output, and would again, begins at the start only. `address`, `idempotency_key` and `body_digest`
        are those of whoever asks now, as in a `JobRequest`; the priority is the old one unless said. A stream is
        retried as a job whose output is kept. Raises `NotFailed`, and what `submit` raises.
        """
        old = next(iter(await self.fetch([id], client=client)), None)
        if old is None:
            return None
        request = old.request.again(
            address=address, priority=priority, idempotency_key=idempotency_key, body_digest=body_digest
        )
        return _kept(await self._intake.take_again(old, request, start))

    async def fetch(self, ids: Sequence[JobId], *, client: ClientId | None = None) -> list[Job]:
        """The jobs among `ids` (of one client), in their order, each once; unknown ones are left out."""
        return await self._store.get(ids, client=client)

    async def find(
        self,
        *,
        client: ClientId | None = None,
        status: Collection[JobStatus] | None = None,
        container: ContainerId | None = None,
        error: str | None = None,
        after: JobId | None = None,
        limit: int = 1000,
    ) -> list[JobId]:
        """Ids of jobs that match all that is given, as `JobStore.find` says: oldest first, behind the id `after`.

        Raises `StoreFailed` where the store answers a page that does not lead on.
        """
        ids = await self._store.find(
            client=client, status=status, container=container, error=error, after=after, limit=limit
        )
        check_page(ids, after)
        return ids

    async def wait(self, ids: Sequence[JobId], *, client: ClientId | None = None) -> list[Job]:
        """As `fetch`, once all of them are finished. For a time limit, cancel it.

        Raises `NodekitError` where the node does not run, or stops meanwhile.
        """
        return await finished(self._store, self._waiters, ids, client)

    def follow(self, id: JobId, *, client: ClientId | None = None) -> AsyncGenerator[Job, None]:
        """The job as it now is, then again each time it has changed; finished, it is the last. Nothing: there is none.

        Changes that follow closely may come as one. Use it within `contextlib.aclosing`, and keep no job while
        waiting for the next. Raises as `wait` does.
        """
        return following(self._store, self._waiters, id, client)

    async def settle(self, id: JobId, outcome: Outcome, *, client: ClientId | None = None) -> Settlement | None:
        """End a job with what came of it elsewhere, aborting the step that is running. The first end is the only one.

        None: there is no such job.
        """
        outcome.check()
        return await self._telling.to_its_end(partial(self._settle, id, outcome, client))

    async def _settle(self, id: JobId, outcome: Outcome, client: ClientId | None) -> Settlement | None:
        settled = await self._store.settle(id, outcome, client=client)
        if settled is not None and settled.now:
            self._telling.tell(JobFinished(settled.job))
        return settled

    async def cancel(self, id: JobId, *, client: ClientId | None = None) -> Job | None:
        """End a job, aborting the step that is running. A finished job stays as it is; None: there is none."""
        settled = await self.settle(id, Outcome(JobStatus.CANCELLED), client=client)
        return settled.job if settled is not None else None

    def limit(self, client: ClientId) -> None:
        """For transports, before they look at a request: raises `TooManyRequests` where the client asks too often."""
        self._hooks.limit(client, self)

    def changes(self) -> AbstractAsyncContextManager[AsyncIterator[JobId | None]]:
        """Ids of jobs that change from now on; None: some were missed, look again."""
        return self._store.changes()

    # -- how it is --------------------------------------------------------------------------------

    @property
    def containers(self) -> Mapping[ContainerId, Container]:
        """What it offers, running or not."""
        return self._containers

    def running(self) -> Collection[ContainerId]:
        """The containers that can be called right now."""
        return self._running.look()

    @property
    def in_flight(self) -> int:
        """How many jobs run right now, streams among them."""
        return self._executor.running

    async def pending(self) -> Pending:
        """Counts of unfinished jobs. Raises `StoreFailed` where the store does not say."""
        return await asked(self._store.pending)

    async def resources(self, model_id: str | None = None) -> Mapping[ContainerId, msgspec.Raw]:
        """What running containers say of themselves, as JSON; who fails or takes longer than 3 s is left out."""
        return await describe(self._runners, self.running(), model_id, self._describing)

    async def health(self) -> Health:
        """Whether store and executor work and a container can be called. Reads the store once."""
        return await diagnosis(self._store, self._running, self._executor, self._intake, self._hooks.problems(self))


def _kept(answer: Job | NodekitError) -> Job:
    if isinstance(answer, NodekitError):
        raise answer
    return answer
