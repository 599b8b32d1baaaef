"""Interfaces of components that store jobs. The store is also the queue.

Write a `JobTable` (eight methods) for a store that one node owns, and wrap it in `EmbeddedStore`. Implement `JobStore`
for an engine with its own scheduling, or `SharedStore` for one that several nodes share.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Protocol

import anyio
import msgspec

from nodekit.model.container import ClientId, ContainerId, GroupId, JobId, Location
from nodekit.model.job import Held, Job, Outcome, StepRecord
from nodekit.model.queries import JobFields, JobQuery


class Pending(msgspec.Struct, frozen=True):
    """Counts of accepted, unfinished jobs, running ones included.

    - `onchain`: Count of those whose data come from a chain, or whose output goes to one (`JobRequest.onchain`).
    - `groups`: Counts of those groups that were asked for and have unfinished jobs.
    """

    offchain: int = 0
    onchain: int = 0
    groups: Mapping[GroupId, int] = {}

    @property
    def total(self) -> int:
        return self.offchain + self.onchain


class ClaimRoom(msgspec.Struct, frozen=True):
    """The room that one claim has: for jobs of each group, so that none holds all slots of a node, and for payloads.

    - `each`: Number of jobs of a group that is not in `groups`; at least 1.
    - `groups`: Number of jobs of these groups. 0: none of their jobs.
    - `most_bytes`: Bytes of the payloads of all the jobs together. A single job may have more. None: no limit.
    """

    each: int
    groups: Mapping[GroupId, int] = {}
    most_bytes: int | None = None

    def of(self, group: GroupId) -> int:
        """Return the number of a group."""
        return self.groups.get(group, self.each)


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

        The steps that a retry (`Job.retry_of`) begins with are those of the old job; outputs before the last one may be
        `LEFT_OUT` in it. The store takes them from there, or raises `StoreFailed` if the old job is gone.

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
        room: ClaimRoom | None = None,
    ) -> list[Claim]:
        """Wait for at least one due job whose next step is in `containers`, and claim up to `limit`.

        The jobs have the parts of `JobFields.RUN`; other outputs may be missing.

        The job's pipeline is one of `pipelines`, because whoever runs a step has to know what follows; None: whatever
        it is. At most one of the jobs is a suspect (`Claim.takeovers`), and none if `suspects` is false. `room` limits
        the jobs of each group (`Job.group`), and their bytes; None: it has room for all.

        The order is by priority (lower first), then round-robin over groups (`Job.group`), then oldest first.
        Cancelling the call loses no job.
        """
        ...

    async def claim_expired(self, limit: int, *, most_bytes: int | None = None) -> list[Claim]:
        """Wait for at least one queued job whose time is over, and claim up to `limit`, only to fail them.

        `most_bytes` is that of `ClaimRoom`.

        A job's time is over when it is older than its `timeout_seconds` (`Claim.age_seconds`), or has been due for
        longer than its `queue_timeout_seconds`, whatever container it waits for. Cancelling the call loses no job.
        """
        ...

    async def save(self, claim: Claim, job: Job) -> None:
        """Store the changed job, as durably as `add` does. Outputs that are stored already may be missing in it.

        Afterwards, `claim.job` is the job as it was stored.

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

    async def steps(self, id: JobId, first: int, most_bytes: int) -> Sequence[StepRecord]:
        """Return the steps of a job from the index `first` on, whole: as many as have `most_bytes`, at least one.

        Return none for an unknown job, or if it has no more steps.
        """
        ...

    async def find(self, query: JobQuery) -> list[JobId]:
        """Return the ids of the first `query.limit` jobs that match the query, in its order."""
        ...

    async def sizes(self, ids: Sequence[JobId]) -> Mapping[JobId, int]:
        """Return the `payload_bytes` of the jobs among `ids` as they are stored, without reading their payloads."""
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
        `end`, which ends the iteration, the node calls it when it stops, instead of cancelling each wait. If it has a
        method `finished_only`, which leaves out all changes but ends, the node calls it where it waits only for these.
        """
        ...


class Unfinished(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about a job that scheduling needs, without payload.

    - `not_before`: Time in Unix seconds.
    - `suspect`: True if the job lost a claim since its last step was stored (`Claim.takeovers`).
    - `payload_bytes`: `Job.payload_bytes` as it is stored.
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
    payload_bytes: int = 0

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
            onchain=request.onchain,
            streams=request.destination is Location.STREAM,
            not_before=job.not_before,
            delay_seconds=job.delay_seconds,
            timeout_seconds=job.timeout_seconds,
            queue_timeout_seconds=job.queue_timeout_seconds,
            payload_bytes=job.payload_bytes,
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

        A table with an attribute `shares_payloads`, which is true, may get retries in which outputs are `LEFT_OUT`:
        they are those of the old job. Other tables get whole jobs.

        A job may have ended already and have its `finish_number`: it comes from another store (`JobArchive.restore`).

        Return the stored job for each, in their order: the new one, or the one already stored under its id or its
        (client, idempotency key), also from earlier in the same call. A job without a key never matches another by key.
        """
        ...

    async def save(self, job: Job) -> None:
        """Store the newest snapshot of an existing job. Its request and its ended steps never change.

        Outputs of ended steps that are stored already may be missing in `job`; they stay. A table that keeps jobs as a
        whole keeps `job.over(stored)`.
        """
        ...

    async def get(
        self, ids: Sequence[JobId], *, client: ClientId | None = None, fields: JobFields = JobFields.ALL
    ) -> list[Job]:
        """Return the jobs among `ids`, in their order, each once; unknown ones (and other clients') are left out.

        Parts that are not among `fields` may be missing. A job that the table has, but cannot read, because its data
        are damaged, is a failed one without a `finish_number`: `EmbeddedStore` then saves that end.
        """
        ...

    async def find(self, query: JobQuery) -> list[JobId]:
        """Return the ids of the first `query.limit` jobs that match the query, in its order (`JobQuery.choose`)."""
        ...

    async def sizes(self, ids: Sequence[JobId]) -> Mapping[JobId, int]:
        """Return the `payload_bytes` of the jobs among `ids` as they are stored. Unknown ones are left out.

        It is called before payloads are read, to see whether there is room for them: it must not read them itself.
        """
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
