"""Interfaces of components that store jobs. The store is also the queue.

Write a `JobTable` (seven methods) for a store that one node owns, and wrap it in `EmbeddedStore`. Implement `JobStore`
for an engine with its own scheduling, or `SharedStore` for one that several nodes share.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Protocol

import anyio
import msgspec

from nodekit.interfaces.storage import PluginStorage
from nodekit.model.container import ClientId, ContainerId, GroupId, JobId, Location
from nodekit.model.job import Held, Job, Outcome
from nodekit.model.queries import JobFields, JobQuery


class Pending(msgspec.Struct, frozen=True):
    """Counts of accepted, unfinished jobs, running ones included.

    - `groups`: Counts of those groups that were asked for and have unfinished jobs.
    """

    offchain: int = 0
    onchain: int = 0
    groups: Mapping[GroupId, int] = {}

    @property
    def total(self) -> int:
        return self.offchain + self.onchain


class Claim(Protocol):
    """The exclusive right to run one job. The store that gave the claim renews it."""

    @property
    def job(self) -> Job:
        """The job as it was last stored."""
        ...

    @property
    def scope(self) -> anyio.CancelScope:
        """Scope to run the steps in. The store cancels it when the claim is no longer valid."""
        ...

    @property
    def takeovers(self) -> int:
        """Number of claims of this job that were lost in a row, since its last step was stored.

        A job that was taken over is a suspect: it may have killed its node. 0 if the store cannot know, as after a
        crash of a store that one node owns.
        """
        ...

    @property
    def age_seconds(self) -> float:
        """Age of the job when it was claimed, by a steady clock. A store may count from the time it was opened."""
        ...


class Change(msgspec.Struct, frozen=True):
    """One change of a job.

    - `finished`: True if the job has ended. Nothing changes after that.
    """

    id: JobId
    finished: bool = False


class Settlement(msgspec.Struct, frozen=True):
    """The result of finishing a job without a claim.

    - `job`: The job as it is now.
    - `now`: True if this call finished the job, False if it was finished already.
    """

    job: Job
    now: bool


class JobStore(Protocol):
    """A component that stores jobs and decides which is next.

    Methods raise `StoreFailed` if they could not write or read.
    """

    async def __aenter__(self) -> "JobStore": ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        """Store new jobs and queue them, all or none. They are durable once the call returns.

        Return the stored job for each: the new one, or the one already stored under its id or its (client, idempotency
        key).
        """
        ...

    async def add_claimed(self, job: Job) -> Claim:
        """Store a job that streams (its destination is STREAM) and claim it at once.

        `claim` never returns it, and it never runs again: if the claim dies or is released, it fails with
        `interrupted`.
        """
        ...

    async def claim(
        self,
        containers: Collection[ContainerId],
        pipelines: Collection[str] | None,
        limit: int,
        *,
        suspects: bool = True,
    ) -> list[Claim]:
        """Wait for at least one due job whose next step is in `containers`, and claim up to `limit`.

        The job's pipeline is one of `pipelines`, because whoever runs a step has to know what follows; None: whatever
        it is. At most one of the jobs is a suspect (`Claim.takeovers`), and none if `suspects` is false.

        The order is by priority (lower first), then round-robin over groups (`Job.group`), then oldest first.
        Cancelling the call loses no job.
        """
        ...

    async def claim_expired(self, limit: int) -> list[Claim]:
        """Wait for at least one queued job whose time is over, and claim up to `limit`, only to fail them.

        A job's time is over when it is older than its `timeout_seconds` (`Claim.age_seconds`), or has been due for
        longer than its `queue_timeout_seconds`, whatever container it waits for. Cancelling the call loses no job.
        """
        ...

    async def save(self, claim: Claim, job: Job) -> None:
        """Store the changed job, as durably as `add` does. Afterwards, `claim.job` is the job as it was stored.

        A finished job gets its `finish_number` and ends the claim, here and in `release`; `settle` numbers the job that
        it finishes. Raise `ClaimLost` if the claim is no longer valid.
        """
        ...

    async def release(self, claim: Claim, job: Job, *, delay_seconds: float = 0) -> None:
        """Save the job and give it back to the queue, due in `delay_seconds`. A finished job is only saved.

        Raise `ClaimLost` as `save` does.
        """
        ...

    async def settle(
        self, id: JobId, outcome: Outcome, *, client: ClientId | None, call: Held | None = None
    ) -> Settlement | None:
        """Finish a job without a claim; a run that holds its claim loses it. The first finish wins.

        `call` is the call of a container that this cuts short; the job keeps it (`Job.cut_short`).
        Return None if there is no such job (or, with `client`, none of that client).
        """
        ...

    async def get(
        self, ids: Sequence[JobId], *, client: ClientId | None = None, fields: JobFields = JobFields.ALL
    ) -> list[Job]:
        """Return the jobs among `ids`, in their order, each once; unknown ones (and other clients') are left out.

        Parts that are not among `fields` may be missing.
        """
        ...

    async def find(self, query: JobQuery) -> list[JobId]:
        """Return the ids of the first `query.limit` jobs that match the query, in its order."""
        ...

    async def delete(self, ids: Sequence[JobId]) -> int:
        """Delete finished jobs; unfinished and unknown ones are left alone. Return the number of deleted jobs."""
        ...

    async def expire(self, *, finished_before: float | None, keep: int | None, limit: int) -> int:
        """Delete up to `limit` finished jobs, first those that finished first. Return the number of deleted jobs.

        A job is deleted if it finished before a time (in Unix seconds), or is not among the `keep` that finished last.
        None sets no such limit. Every node of a shared store may call this at the same time.
        """
        ...

    async def pending(self, groups: Collection[GroupId] = ()) -> Pending:
        """Return the counts of unfinished jobs: of all, and of those of some groups.

        On a shared store they are the counts of all nodes. The counters are maintained, not computed: cheap enough for
        every request.

        A store that counts jobs from the moment `add` is called keeps a node from taking more of them than its limits
        allow.
        """
        ...

    def changes(
        self, ids: Collection[JobId] | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Change | None]]:
        """Subscribe to changes of jobs from now on, on any node: of these jobs, or of all.

        None among the changes means that some were missed: look again. A subscription may be left in another cancel
        scope of its task than it was entered in, so it holds none open, and no task group. If the iterator has a method
        `end`, which ends the iteration, the node calls it when it stops, instead of cancelling each wait.
        """
        ...


class JobView(Protocol):
    """The jobs of a store, opened beside the nodes that work on it: to read them, and to delete finished ones.

    Its methods are those of `JobStore`, with one difference: in the order ``finished``, a job that is being written may
    still come up before others. The view owns nothing, and its calls are short.
    """

    async def __aenter__(self) -> "JobView": ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...

    async def get(
        self, ids: Sequence[JobId], *, client: ClientId | None = None, fields: JobFields = JobFields.ALL
    ) -> list[Job]: ...

    async def find(self, query: JobQuery) -> list[JobId]: ...

    async def delete(self, ids: Sequence[JobId]) -> int: ...

    async def expire(self, *, finished_before: float | None, keep: int | None, limit: int) -> int: ...


class ViewedStore(JobStore, Protocol):
    """A store that commands such as `nodekit prune` can use while its node runs, and while none does."""

    def view(self) -> JobView:
        """Return a view of the jobs. The store itself need not be entered.

        Entering the view raises `StoreFailed` if there is nothing to open.
        """
        ...


class CompactingStore(JobStore, Protocol):
    """A store whose files keep the space of deleted jobs, until they are compacted."""

    async def compact(self) -> int:
        """Give that space back to the file system; return the number of bytes. The store must not be entered.

        Raise `StoreInUse` while a node works on it, and `StoreFailed`.
        """
        ...


class StoringStore(JobStore, Protocol):
    """A store that keeps records of plugins, too."""

    def storage(self, namespace: str) -> PluginStorage:
        """Return the records of a namespace, which can be used while the store is entered.

        It may be called at any time.
        """
        ...


class EndingStore(JobStore, Protocol):
    """A store that ends jobs by itself, such as streams that an earlier run left unfinished, and reports them."""

    async def ended(self) -> Sequence[Job]:
        """Wait for at least one job that the store ended without a call of `save` or `settle`.

        Each such job is returned once. The node emits its end to its observers. Cancelling the call loses no job.
        """
        ...


class Unfinished(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about a job that scheduling needs, without payload.

    - `not_before`: Time in Unix seconds.
    - `suspect`: True if the job lost a claim since its last step was stored (`Claim.takeovers`).
    """

    id: JobId
    group: GroupId
    priority: int
    due: ContainerId
    pipeline: str = "sequence"
    suspect: bool = False
    onchain: bool = False
    streams: bool = False
    not_before: float | None = None
    delay_seconds: float | None = None
    timeout_seconds: float | None = None
    queue_timeout_seconds: float | None = None

    @classmethod
    def of(cls, job: Job) -> "Unfinished":
        """Return the facts for scheduling a job."""
        request = job.request
        return cls(
            id=job.id,
            group=job.group,
            priority=request.priority,
            due=job.due or "",
            pipeline=request.pipeline,
            onchain=request.origin is Location.ONCHAIN,
            streams=request.destination is Location.STREAM,
            not_before=job.not_before,
            delay_seconds=job.delay_seconds,
            timeout_seconds=job.timeout_seconds,
            queue_timeout_seconds=job.queue_timeout_seconds,
        )


class JobTable(Protocol):
    """Jobs by id, on one machine, with one owner: all that a store plugin has to write. `EmbeddedStore` does the rest.

    `Unfinished.of(job)` gives what `unfinished` returns, and `msgspec.json` encodes and decodes a whole `Job` exactly.
    Calls may overlap, but two writes of the same job never do. Calls run in the event loop, so blocking work belongs in
    a thread. Raise `StoreFailed` if something could not be written or read, `StoreInUse` from `__aenter__` if another
    node has the table open. A job that could not be written is not there, and does not appear later.

    Cancellation under `EmbeddedStore`: `get`, `find` and `delete` are cancelled with their caller. `add`, and the
    `save` of a job that is settled, run to their end in tasks of the store's own. The `save` of a claimed job is
    shielded; only asyncio's own `Task.cancel` of the caller reaches through. While the store opens, each call may be
    cancelled, and `__aexit__` may be called in a cancelled scope: shield what it does. A cancelled write may be stored
    or not, but never in part, and all later answers agree with what was stored.
    """

    async def __aenter__(self) -> Any: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        """Store new jobs, all or none. They are durable once the call returns.

        Return the stored job for each, in their order: the new one, or the one already stored under its id or its
        (client, idempotency key), also from earlier in the same call. A job without a key never matches another by key.
        """
        ...

    async def save(self, job: Job) -> None:
        """Store the newest snapshot of an existing job. Its request and its finished steps never change."""
        ...

    async def get(
        self, ids: Sequence[JobId], *, client: ClientId | None = None, fields: JobFields = JobFields.ALL
    ) -> list[Job]:
        """Return the jobs among `ids`, in their order, each once; unknown ones (and other clients') are left out.

        Parts that are not among `fields` may be missing.
        """
        ...

    async def find(self, query: JobQuery) -> list[JobId]:
        """Return the ids of the first `query.limit` jobs that match the query, in its order (`JobQuery.choose`)."""
        ...

    async def delete(self, ids: Sequence[JobId]) -> int:
        """Delete finished jobs, with their idempotency keys; unfinished and unknown ones are left alone.

        Return the number of deleted jobs. They stay deleted after a crash once the call returns.
        """
        ...

    async def last_surplus(self, keep: int) -> int | None:
        """Return the `finish_number` of the last job that is surplus if the `keep` jobs that finished last are kept.

        None if no more than `keep` jobs have a number.
        """
        ...

    async def unfinished(self) -> Sequence[Unfinished]:
        """Return the unfinished jobs, oldest first. Called once, when the table was opened."""
        ...
