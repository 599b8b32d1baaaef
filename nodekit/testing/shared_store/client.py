"""The part of a shared store's client that does not depend on the way to its engine."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import anyio

from nodekit import (
    Announcement,
    Change,
    Claim,
    ClaimRoom,
    ClientId,
    ContainerId,
    GroupId,
    Held,
    Job,
    JobFields,
    JobId,
    JobQuery,
    Member,
    Outcome,
    Pending,
    QueueState,
    Record,
    Settlement,
    StepRecord,
    Write,
    check_key,
    check_place,
    check_writes,
)
from nodekit.testing.shared_store.engine import Granted


@dataclass(eq=False)
class SharedClaim:
    """A claim in the hands of a client."""

    token: int
    job: Job
    takeovers: int
    age_seconds: float
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)


class SharedClient(ABC):
    """A `SharedStore` without its connection to the engine; subclasses add that."""

    def __init__(self) -> None:
        self._claims: dict[int, SharedClaim] = {}
        self._lost: set[int] = set()
        """Tokens of claims that were lost, maybe before their calls got them."""

    @abstractmethod
    async def _call(self, method: str, /, namespace: str = "", **arguments: Any) -> Any:
        """Call a method of the engine, of its store, or of the records of a namespace."""

    @abstractmethod
    async def _wait(
        self,
        containers: Collection[ContainerId] | None,
        pipelines: Collection[str] | None,
        limit: int,
        suspects: bool,
        room: ClaimRoom | None,
    ) -> Sequence[Granted]:
        """Call the engine's `claim`. Cancelling it loses no job."""

    @abstractmethod
    def changes(
        self, ids: Collection[JobId] | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Change | None]]: ...

    # -- claims -----------------------------------------------------------------------------------

    async def claim(
        self,
        containers: Collection[ContainerId],
        pipelines: Collection[str] | None,
        limit: int,
        *,
        suspects: bool = True,
        room: ClaimRoom | None = None,
    ) -> list[Claim]:
        granted = await self._wait(
            frozenset(containers), None if pipelines is None else frozenset(pipelines), limit, suspects, room
        )
        return [self._hold(one) for one in granted]

    async def claim_expired(self, limit: int, *, most_bytes: int | None = None) -> list[Claim]:
        room = ClaimRoom(limit, most_bytes=most_bytes)
        return [self._hold(one) for one in await self._wait(None, (), limit, True, room)]

    async def add_claimed(self, job: Job) -> Claim:
        return self._hold(await self._call("add_claimed", job=job))

    def _hold(self, granted: Granted) -> Claim:
        claim = SharedClaim(granted.token, granted.job, granted.takeovers, granted.age_seconds)
        self._claims[claim.token] = claim
        if granted.lost or claim.token in self._lost:
            self._lose(claim.token)
        return claim

    def _lose(self, token: int) -> None:
        self._lost.add(token)
        if token in self._claims:
            self._claims.pop(token).scope.cancel()

    async def save(self, claim: Any, job: Job) -> None:
        claim.job = await self._call("save", token=claim.token, job=job)
        if job.status.finished:
            self._claims.pop(claim.token, None)

    async def release(self, claim: Any, job: Job, *, delay_seconds: float = 0) -> None:
        claim.job = await self._call("release", token=claim.token, job=job, delay_seconds=delay_seconds)
        self._claims.pop(claim.token, None)

    # -- jobs -------------------------------------------------------------------------------------

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        kept: list[Job] = await self._call("add", jobs=jobs)
        return kept

    async def settle(
        self, id: JobId, outcome: Outcome, *, client: ClientId | None, call: Held | None = None
    ) -> Settlement | None:
        settled: Settlement | None = await self._call("settle", id=id, outcome=outcome, client=client, call=call)
        return settled

    async def get(
        self, ids: Sequence[JobId], *, client: ClientId | None = None, fields: JobFields = JobFields.ALL
    ) -> list[Job]:
        jobs: list[Job] = await self._call("get", ids=ids, client=client, fields=fields)
        return jobs

    async def steps(self, id: JobId, first: int, most_bytes: int) -> Sequence[StepRecord]:
        steps: Sequence[StepRecord] = await self._call("steps", id=id, first=first, most_bytes=most_bytes)
        return steps

    async def find(self, query: JobQuery) -> list[JobId]:
        ids: list[JobId] = await self._call("find", query=query)
        return ids

    async def sizes(self, ids: Sequence[JobId]) -> Mapping[JobId, int]:
        sizes: Mapping[JobId, int] = await self._call("sizes", ids=ids)
        return sizes

    async def delete(self, ids: Sequence[JobId]) -> int:
        number: int = await self._call("delete", ids=ids)
        return number

    async def expire(self, *, finished_before: float | None, keep: int | None, limit: int) -> int:
        number: int = await self._call("expire", finished_before=finished_before, keep=keep, limit=limit)
        return number

    async def pending(self, groups: Collection[GroupId] = ()) -> Pending:
        pending: Pending = await self._call("pending", groups=groups)
        return pending

    def storage(self, namespace: str) -> "Records":
        return Records(self, namespace)

    # -- the cluster ------------------------------------------------------------------------------

    async def announce(self, announcement: Announcement) -> None:
        await self._call("announce", announcement=announcement)

    async def nodes(self) -> Sequence[Member]:
        members: Sequence[Member] = await self._call("nodes")
        return members

    async def now(self) -> float:
        now: float = await self._call("now")
        return now

    async def held(self, ids: Collection[JobId]) -> Mapping[JobId, Held]:
        held: Mapping[JobId, Held] = await self._call("held", ids=ids)
        return held

    async def queues(self) -> Mapping[ContainerId, QueueState]:
        queues: Mapping[ContainerId, QueueState] = await self._call("queues")
        return queues


class Records:
    """The records of a namespace, which the engine has. They are checked here, where their types are still known."""

    def __init__(self, client: SharedClient, namespace: str) -> None:
        self._call, self._namespace = client._call, namespace  # pyright: ignore[reportPrivateUsage]

    async def get(self, key: str) -> Record | None:
        check_key(key)
        record: Record | None = await self._call("get", self._namespace, key=key)
        return record

    async def put(self, key: str, value: bytes, *, expect: int | None = None) -> int:
        check_writes([Write(key, value, expect)])
        version: int = await self._call("put", self._namespace, key=key, value=value, expect=expect)
        return version

    async def delete(self, key: str, *, expect: int | None = None) -> bool:
        check_key(key)
        existed: bool = await self._call("delete", self._namespace, key=key, expect=expect)
        return existed

    async def scan(self, prefix: str = "", *, after: str | None = None, limit: int = 1000) -> list[Record]:
        check_place(prefix, after, limit)
        records: list[Record] = await self._call("scan", self._namespace, prefix=prefix, after=after, limit=limit)
        return records

    async def batch(self, writes: Sequence[Write]) -> list[int]:
        check_writes(writes)
        versions: list[int] = await self._call("batch", self._namespace, writes=writes)
        return versions
