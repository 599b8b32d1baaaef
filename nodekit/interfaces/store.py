"""Interfaces of what keeps jobs. The store is also the queue.

Write a `JobTable` (six methods) for a store that one node owns, and wrap it in `EmbeddedStore`;
implement `JobStore` or `SharedStore` itself for an engine that schedules on its own.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Protocol

import anyio
import msgspec

from nodekit.model.container import ClientId, Container, ContainerId, JobId, Location
from nodekit.model.job import Job, JobStatus, Outcome


class Pending(msgspec.Struct, frozen=True):
    """How many jobs are accepted and not finished, running ones included."""

    offchain: int = 0
    onchain: int = 0
    clients: Mapping[ClientId, int] = {}

    @property
    def total(self) -> int:
        return self.offchain + self.onchain


class Claim(Protocol):
    """The exclusive right to run one job. The store that gave it renews it."""

    @property
    def job(self) -> Job:
        """The job as it was last stored."""
        ...

    @property
    def scope(self) -> anyio.CancelScope:
        """Run the steps inside it: the store cancels it when the claim is worth nothing any more."""
        ...

    @property
    def takeovers(self) -> int:
        """How many claims of this job were lost before this one; 0 where the store cannot know, as after a crash."""
        ...

    @property
    def age_seconds(self) -> float:
        """How old the job was when it was claimed, by a steady clock; a store may count from when it was opened."""
        ...


class Settlement(msgspec.Struct, frozen=True):
    """What came of finishing a job without a claim."""

    job: Job
    """As it now is."""
    now: bool
    """Whether this call finished it; False: it was finished already."""


class JobStore(Protocol):
    """Keeps jobs, and says who is next. Methods raise `StoreFailed` when they could not keep or read."""

    async def __aenter__(self) -> "JobStore": ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        """Keep new jobs and queue them, all or none. Durable once it returns.

        Per job, what is kept: it, or the one already there under its id or its (client, idempotency key).
        """
        ...

    async def add_claimed(self, job: Job) -> Claim:
        """Keep a job that streams (its destination is STREAM) and claim it at once.

        It is never offered by `claim`, nor run again: if the claim dies or is released, it fails with `interrupted`.
        """
        ...

    async def claim(self, containers: Collection[ContainerId], limit: int) -> list[Claim]:
        """Wait for at least one due job whose next step is in `containers`, and claim up to `limit`.

        By priority (lower first), then round-robin over clients, then oldest first.
        Cancelling the call loses nothing.
        """
        ...

    async def claim_expired(self, limit: int) -> list[Claim]:
        """Wait for at least one queued job whose time is over, and claim up to `limit`: to fail them, not to run them.

        A job's time is over when it is older than its `timeout_seconds` (`Claim.age_seconds`), or has been due for
        longer than its `queue_timeout_seconds`, whatever container it waits for. Cancelling the call loses nothing.
        """
        ...

    async def save(self, claim: Claim, job: Job) -> None:
        """Keep what has happened, as durable as `add`. A finished job ends the claim.

        Raises `ClaimLost` when the job was settled or taken over; nothing is kept then.
        """
        ...

    async def release(self, claim: Claim, job: Job, *, delay_seconds: float = 0) -> None:
        """Save and give the job back to the queue, due in `delay_seconds`; a finished one is only saved.

        Raises `ClaimLost` as `save` does.
        """
        ...

    async def settle(self, id: JobId, outcome: Outcome, *, client: ClientId | None) -> Settlement | None:
        """Finish a job without a claim; whoever runs it loses the claim. The first finish wins.

        None where there is no such job (or, with `client`, none of that client).
        """
        ...

    async def get(self, ids: Sequence[JobId], *, client: ClientId | None = None) -> list[Job]:
        """The jobs among `ids`, in their order, each once; unknown ones (and other clients') are left out."""
        ...

    async def find(
        self,
        *,
        client: ClientId | None = None,
        status: Collection[JobStatus] | None = None,
        idempotency_key: str | None = None,
        container: ContainerId | None = None,
        error: str | None = None,
        after: JobId | None = None,
        limit: int,
    ) -> list[JobId]:
        """Ids of jobs that match all that is given, oldest first, behind `after` (which need not exist).

        `container` and `error` are matched with `Job.error`, as jobs ended and not as their steps did: exactly, and as
        a part of its text, case and all. Jobs that have none match neither.
        """
        ...

    async def delete(self, ids: Sequence[JobId]) -> int:
        """Forget finished jobs; unfinished and unknown ones are left alone. Answers how many are gone."""
        ...

    async def pending(self) -> Pending:
        """Counters that are kept, not counted: cheap enough for every request.

        A store that counts jobs from when `add` is called keeps a node from taking more of them than its limits allow.
        """
        ...

    def changes(self) -> AbstractAsyncContextManager[AsyncIterator[JobId | None]]:
        """Ids of jobs that changed from now on, whichever node changed them; None: some were missed, look again."""
        ...


class EndingStore(JobStore, Protocol):
    """A store that ends jobs by itself, such as streams that an earlier run has left, and says which."""

    async def ended(self) -> Sequence[Job]:
        """Wait for at least one job that the store has ended without a call of `save` or `settle`, each given once.

        The node tells its observers of them. Cancelling the call loses nothing.
        """
        ...


class Announcement(msgspec.Struct, frozen=True):
    """What a node offers to a cluster. Of a container only the fields of `Container` travel: rules, but no secrets."""

    containers: Mapping[ContainerId, Container]
    running: Collection[ContainerId]


class SharedStore(JobStore, Protocol):
    """A store that several nodes work on, each through one of its own.

    It renews what it claimed itself, as long as it is entered and its event loop runs; a claim that was not renewed for
    the time of its lease is taken over: the job is queued again, as it was last saved, for any node, and a stream
    fails with `interrupted`. That takes no call of a node. Leases, delays and time limits count on the engine's clock,
    on no node's. Whoever comes back too late finds the claim's `scope` cancelled, and `save` and `release` raise
    `ClaimLost`. Leaving it gives back what it still had claimed.
    """

    async def __aenter__(self) -> "SharedStore": ...

    async def announce(self, name: str, offered: Announcement) -> None:
        """Tell the other nodes what the node of this name offers. Lapses when it dies."""
        ...

    async def nodes(self) -> Mapping[str, Announcement]:
        """What each live node offers, by its name."""
        ...


class Unfinished(msgspec.Struct, frozen=True, kw_only=True):
    """What scheduling needs to know of a job: no payload."""

    id: JobId
    client: ClientId
    priority: int
    due: ContainerId
    onchain: bool = False
    streams: bool = False
    not_before: float | None = None
    """Unix seconds."""
    delay_seconds: float | None = None
    timeout_seconds: float | None = None
    queue_timeout_seconds: float | None = None

    @classmethod
    def of(cls, job: Job) -> "Unfinished":
        """The scheduling side of a job."""
        request = job.request
        return cls(
            id=job.id,
            client=request.client,
            priority=request.priority,
            due=job.due or "",
            onchain=request.origin is Location.ONCHAIN,
            streams=request.destination is Location.STREAM,
            not_before=job.not_before,
            delay_seconds=job.delay_seconds,
            timeout_seconds=job.timeout_seconds,
            queue_timeout_seconds=job.queue_timeout_seconds,
        )


class JobTable(Protocol):
    """Jobs by id, on one machine, with one owner: all that a store plugin has to write. `EmbeddedStore` does the rest.

    `Unfinished.of(job)` gives what `unfinished` answers, and `msgspec.json` encodes and decodes a whole `Job` exactly.
    Calls may overlap, but never two writes of the same job; they run in the event loop, so what blocks belongs in a
    thread. Raise `StoreFailed` when something could not be kept or read, `StoreInUse` from `__aenter__` when another
    node has the table open. What could not be kept is not there, and does not come later.

    What cancellation reaches under `EmbeddedStore`: `get`, `find` and `delete` are cancelled with whoever asked. `add`,
    and the `save` of a job that is settled, run in tasks of the store's own, to their end. The `save` of a job that
    is claimed is shielded; asyncio's own `Task.cancel` of whoever saves is all that reaches through. While the store
    opens, each call may be cancelled, and `__aexit__` may be called in a scope that is cancelled: shield what it does.
    A write that is cancelled may be kept or not, but never in part, and what is answered from then on is what was kept.
    """

    async def __aenter__(self) -> Any: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        """Keep new jobs, all or none. Durable once it returns.

        Answers, for each in its order, what is kept: it, or the one already there under its id or its (client,
        idempotency key), also from earlier in the same call. A job without a key is never taken for another.
        """
        ...

    async def save(self, job: Job) -> None:
        """Keep the newest snapshot of a job that is there. Its request and its finished steps never change."""
        ...

    async def get(self, ids: Sequence[JobId], *, client: ClientId | None = None) -> list[Job]:
        """The jobs among `ids`, in their order, each once; unknown ones (and other clients') are left out."""
        ...

    async def find(
        self,
        *,
        client: ClientId | None = None,
        status: Collection[JobStatus] | None = None,
        idempotency_key: str | None = None,
        container: ContainerId | None = None,
        error: str | None = None,
        after: JobId | None = None,
        limit: int,
    ) -> list[JobId]:
        """Ids of jobs that match all that is given, oldest first (ids sort by age), behind `after`, at most `limit`.

        `after` need not exist. `container` and `error` are matched with `Job.error`, as jobs ended and not as their
        steps did: exactly, and as a part of its text, case and all. Jobs that have none match neither.
        """
        ...

    async def delete(self, ids: Sequence[JobId]) -> int:
        """Forget finished jobs, with their idempotency keys; unfinished and unknown ones are left alone.

        Answers how many are gone. They stay gone after a crash once it returns.
        """
        ...

    async def unfinished(self) -> Sequence[Unfinished]:
        """What is not finished, oldest first; asked once, when the table was opened."""
        ...
