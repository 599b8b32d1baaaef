"""Shared stores that break a promise each: engines, and clients. `tests/kit/test_caught.py` runs the suite on them."""

import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, ClassVar

import anyio
import pytest
from msgspec.structs import replace

from nodekit import (
    Announcement,
    Change,
    Claim,
    ClaimLost,
    ClientId,
    Held,
    Job,
    JobId,
    JobQuery,
    JobStatus,
    JobTable,
    Location,
    Outcome,
    Pending,
    QueueState,
    Settlement,
    SharedStore,
    Unfinished,
)
from nodekit.testing import SharedMemory, SharedStoreContract
from nodekit.testing.shared_store.engine import Engine, Granted, Ticket
from nodekit.testing.shared_store.store import SharedMemoryStore


class Sound(SharedMemoryStore):
    """A store in the memory of an engine."""


# -- leases and fencing ----------------------------------------------------------------------------


class LosesTheFence(Engine):
    async def save(self, token: int, job: Job) -> None:
        if token in self.claims:
            await super().save(token, job)
        else:
            await self.store.table.save(job)


class ReleasesWithoutFence(Engine):
    async def release(self, token: int, job: Job, delay_seconds: float) -> None:
        with suppress(ClaimLost):
            await super().release(token, job, delay_seconds)


class CompletesTwice(Engine):
    """Lets anyone with a result end the job."""

    async def save(self, token: int, job: Job) -> None:
        if not job.status.finished or token in self.claims:
            await super().save(token, job)


class RenewsNothing(SharedMemoryStore):
    async def _renew(self) -> None:
        await anyio.sleep_forever()


class NeverTakesOver(Engine):
    async def watch(self) -> None:
        await anyio.sleep_forever()


class TakesOverTooEarly(Engine):
    def __init__(self, table: JobTable, lease_seconds: float) -> None:
        super().__init__(table, lease_seconds * 0.15)


class CountsNoTakeovers(Engine):
    async def take_back(self, claim: Claim, *, died: bool) -> None:
        await super().take_back(claim, died=False)


class CountsWhatWasGivenBack(Engine):
    async def release(self, token: int, job: Job, delay_seconds: float) -> None:
        self.store.takeovers[job.id] += 1
        await super().release(token, job, delay_seconds)


class ForgetsWhatWasSaved(Engine):
    async def take_back(self, claim: Claim, *, died: bool) -> None:
        begun = replace(claim.job, steps=(), due=claim.job.request.containers[0], status=JobStatus.ACCEPTED)
        self.store.takeovers[claim.job.id] += died
        await self.store.release(claim, begun)
        self.store.table._jobs[begun.id] = begun  # type: ignore[attr-defined]


class KeepsRunning(Engine):
    """Does not tell a node that its claims were taken over."""

    async def end(self, number: int, *, died: bool) -> None:
        self.sessions.pop(number, None)
        await super().end(number, died=died)


class LeavesRunning(Engine):
    """Does not tell a node that its job was settled elsewhere."""

    async def settle(self, id: JobId, outcome: Outcome, client: ClientId | None, **call: Any) -> Settlement | None:
        return await self.store.settle(id, outcome, client=client, **call)


class RerunsStreams(Engine):
    async def take_back(self, claim: Claim, *, died: bool) -> None:
        request = replace(claim.job.request, destination=Location.OFFCHAIN)
        await self.store.release(claim, replace(claim.job, request=request))


class KeepsWhatWasLeft(Engine):
    """Keeps the claims of a store that closed its session."""

    async def end(self, number: int, *, died: bool) -> None:
        if died:
            await super().end(number, died=died)
        else:
            self.sessions.pop(number, None)


async def _now() -> float:
    return time.time()


class TrustsClocks(SharedMemoryStore):
    """Ends a delay by the node's clock."""

    async def release(self, claim: Any, job: Job, *, delay_seconds: float = 0) -> None:
        due_at = time.time() + delay_seconds
        await super().release(claim, job, delay_seconds=max(0.0, due_at - await self._ask(_now)))


class RenewsByItsClock(SharedMemoryStore):
    """Ends a lease by the node's clock."""

    async def _renew(self) -> None:
        while True:
            await anyio.sleep(self.engine.lease_seconds / 4)
            wrong_by = time.time() - await self._ask(_now)
            if session := self.engine.sessions.get(self._session):
                session.lapses_at = time.monotonic() + self.engine.lease_seconds + wrong_by


# -- one queue -------------------------------------------------------------------------------------


class Prefetches(SharedMemoryStore):
    """Claims more jobs than it is asked for, and keeps the rest for the next call."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._more: list[Claim] = []

    async def claim(self, *asked: Any, **more: Any) -> list[Claim]:
        containers, pipelines, limit = asked
        claims = self._more or await super().claim(containers, pipelines, limit + 1, **more)
        self._more = claims[limit:]
        return claims[:limit]


class StarvesAClient(Engine):
    def __init__(self, table: JobTable, lease_seconds: float) -> None:
        super().__init__(table, lease_seconds)
        put = self.store._queue.put
        self.store._queue.put = lambda entry, **delay: put(  # type: ignore[method-assign]
            replace(entry, group="everybody"), **delay
        )


class IgnoresDelay(Engine):
    async def release(self, token: int, job: Job, delay_seconds: float) -> None:
        await super().release(token, job, 0)


class ClaimsTwice(Engine):
    def grant(self, number: int, claim: Claim) -> Granted:
        if self.store.takeovers[claim.job.id] == 0:
            self.store._queue.put(Unfinished.of(claim.job))
            self.store.takeovers[claim.job.id] = 1
        return super().grant(number, claim)


class LosesWhatIsCancelled(Engine):
    async def give_up(self, ticket: Ticket) -> None:
        if not ticket.claims:
            await super().give_up(ticket)


class LooksOnce(SharedMemoryStore):
    """Waits long before it looks again after finding nothing."""

    async def claim(self, *asked: Any, **more: Any) -> list[Claim]:
        with anyio.move_on_after(0.02):
            return await super().claim(*asked, **more)
        await anyio.sleep(3600)
        return await super().claim(*asked, **more)


class KeepsToItself(SharedMemoryStore):
    """Gives a job to no other store if a claim of its own waited when the job was added."""

    kept: ClassVar[dict[JobId, int]] = {}

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._waiting = 0

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        if self._waiting:
            self.kept.update((job.id, self._session) for job in jobs)
        return await super().add(jobs)

    async def claim(self, *asked: Any, **more: Any) -> list[Claim]:
        while True:
            self._waiting += 1
            try:
                claims = await super().claim(*asked, **more)
            finally:
                self._waiting -= 1
            others = [claim for claim in claims if self.kept.get(claim.job.id, self._session) != self._session]
            for claim in others:
                await self.release(claim, claim.job)
            if not others:
                return claims
            await anyio.sleep(0.01)


class ExpiresItsOwnOnly(SharedMemoryStore):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.added: set[JobId] = set()

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        self.added |= {job.id for job in jobs}
        return await super().add(jobs)

    async def claim_expired(self, limit: int, **more: Any) -> list[Claim]:
        while True:
            claims = await super().claim_expired(limit, **more)
            if own := [claim for claim in claims if claim.job.id in self.added]:
                return own
            await anyio.sleep(0.001)


class IgnoresPipelines(Engine):
    async def claim(self, number: int, ticket: Ticket, containers: Any, *wanted: Any) -> list[Granted]:
        return await super().claim(number, ticket, containers, ["sequence", "mine", "other"], *wanted[1:])


class TreatsSuspectsLikeOthers(Engine):
    def __init__(self, table: JobTable, lease_seconds: float) -> None:
        super().__init__(table, lease_seconds)
        self.store._entry = Unfinished.of  # type: ignore[method-assign]


class NeverForgives(Engine):
    """Counts the takeovers of a job until it is finished."""

    async def save(self, token: int, job: Job) -> Job:
        before = self.store.takeovers[job.id]
        saved = await super().save(token, job)
        self.store.takeovers[job.id] = before
        return saved


class ForgivesTooSoon(Engine):
    """Forgets the takeovers of a job that is given back."""

    async def release(self, token: int, job: Job, delay_seconds: float) -> Job:
        self.store.takeovers.pop(job.id, None)
        return await super().release(token, job, delay_seconds)


class SharesTurns(Engine):
    """Has turns for the groups whose names end alike."""

    def __init__(self, table: JobTable, lease_seconds: float) -> None:
        super().__init__(table, lease_seconds)
        entry = self.store._entry
        self.store._entry = lambda job: replace(entry(job), group=job.group[-1])  # type: ignore[method-assign]


# -- one set of jobs -------------------------------------------------------------------------------


class KeysOfItsOwn(SharedMemoryStore):
    """Knows only the idempotency keys that it was given itself."""

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        return await super().add([self._own(job) for job in jobs])

    def _own(self, job: Job) -> Job:
        key = job.request.idempotency_key
        return replace(job, request=replace(job.request, idempotency_key=key and f"{self._session} {key}"))


class CountsItsOwn(ExpiresItsOwnOnly):
    async def pending(self, groups: Collection[str] = ()) -> Pending:
        counted = len(await self.find(JobQuery(status={JobStatus.ACCEPTED}, limit=100))) if self.added else 0
        return replace(await super().pending(groups), offchain=counted)


class CountsWhatItAdded(ExpiresItsOwnOnly):
    async def pending(self, groups: Collection[str] = ()) -> Pending:
        left = [job.group for job in await self.get(list(self.added)) if not job.status.finished]
        return Pending(len(left), 0, {group: left.count(group) for group in groups if group in left})


class HearsItself(ExpiresItsOwnOnly):
    @asynccontextmanager
    async def changes(self, ids: Any = None) -> AsyncIterator[AsyncIterator[Change | None]]:
        async def own(changes: AsyncIterator[Change | None]) -> AsyncIterator[Change | None]:
            async for change in changes:
                if change is None or change.id in self.added:
                    yield change

        async with super().changes(ids) as changes, aclosing(own(changes)) as heard:  # type: ignore[type-var]
            yield heard


# -- announcements ---------------------------------------------------------------------------------


class NeverForgetsNodes(Engine):
    def see(self, number: int, *, live: bool, at: float | None = None) -> None:
        super().see(number, live=live or at is None)


class RemembersWhoLeft(Engine):
    def see(self, number: int, *, live: bool, at: float | None = None) -> None:
        super().see(number, live=live or at is not None)


class ForgetsWhoLeft(Engine):
    def see(self, number: int, *, live: bool, at: float | None = None) -> None:
        super().see(number, live=live, at=at)
        self.members = {key: entry for key, entry in self.members.items() if entry[1].live}


class KnowsNames(Engine):
    """Takes a node that starts again for the one of this name before."""

    async def announce(self, number: int, announcement: Announcement) -> None:
        await super().announce(number, announcement)
        self.members[announcement.name] = self.members.pop(announcement.incarnation)


class ForgetsByName(KnowsNames):
    """Takes a node for gone when an earlier one of its name goes."""

    def __init__(self, table: JobTable, lease_seconds: float) -> None:
        super().__init__(table, lease_seconds)
        self.names: dict[int, set[str]] = {}

    async def announce(self, number: int, announcement: Announcement) -> None:
        self.names.setdefault(number, set()).add(announcement.name)
        await Engine.announce(self, number, announcement)

    def see(self, number: int, *, live: bool, at: float | None = None) -> None:
        super().see(number, live=live, at=at)
        gone = () if live else self.names.get(number, ())
        self.members = {key: one for key, one in self.members.items() if one[1].announcement.name not in gone}


class HasNoClock(SharedMemoryStore):
    """Answers the time of the node that asks."""

    async def now(self) -> float:
        return time.time()


class CountsWhatRuns(Engine):
    """Counts the jobs that are claimed among those that are queued."""

    async def queues(self) -> Mapping[str, QueueState]:
        states = dict(await super().queues())
        for held in self.claims.values():
            due = held.claim.job.due or ""
            states[due] = QueueState(states.get(due, QueueState(0)).jobs + 1)
        return states


class KnowsHoldersForEver(Engine):
    def __init__(self, table: JobTable, lease_seconds: float) -> None:
        super().__init__(table, lease_seconds)
        self.known: dict[JobId, Held] = {}

    async def held(self, ids: Collection[JobId]) -> Mapping[JobId, Held]:
        self.known.update(await super().held(ids))
        return {id: self.known[id] for id in ids if id in self.known}


class NextVersion(SharedMemoryStore):
    """Begins its upgrade by ending the sessions of all others."""

    async def __aenter__(self) -> "NextVersion":
        for number in list(self.engine.sessions):
            await self._ask(lambda number=number: self.engine.end(number, died=True))
        await super().__aenter__()
        return self


class UpgradesWithForce(SharedMemoryStore):
    other_version = NextVersion


class Hoards(NextVersion):
    """Keeps what it has claimed, even if its node is dead."""

    async def __aenter__(self) -> "Hoards":
        await SharedMemoryStore.__aenter__(self)
        self.engine.sessions[self._session].lapses_at = float("inf")
        return self

    async def _renew(self) -> None:
        await anyio.sleep_forever()


class NextVersionHoards(SharedMemoryStore):
    other_version = Hoards


class AddsToAnnouncements(Engine):
    async def announce(self, number: int, announcement: Announcement) -> None:
        before = self.members.get(announcement.incarnation)
        containers = {**before[1].announcement.containers} if before else {}
        await super().announce(number, replace(announcement, containers={**containers, **announcement.containers}))


class LosesHalfOfIt(Engine):
    """Keeps of an announcement what its first version had."""

    def plain(self, announcement: Announcement) -> Announcement:
        plain = super().plain(announcement)
        first = {name: getattr(plain, name) for name in ("name", "incarnation", "containers", "running")}
        return Announcement(**first)


class HidesWhatRuns(Engine):
    def plain(self, announcement: Announcement) -> Announcement:
        return replace(super().plain(announcement), running=())


class NeverSeesAgain(Engine):
    """Keeps the time of an announcement as the node's last sign of life."""

    def see(self, number: int, *, live: bool, at: float | None = None) -> None:
        if not live:
            super().see(number, live=live, at=at)


class Suite(SharedStoreContract):
    subject: type[Engine] | type[SharedMemoryStore]

    @pytest.fixture
    def shared(self) -> Iterator[SharedMemory]:
        broken: dict[str, Any] = {"engine" if issubclass(self.subject, Engine) else "client": self.subject}
        with SharedMemory(self.lease_seconds, **broken) as shared:
            yield shared

    @pytest.fixture
    def open_store(self, shared: SharedMemory) -> Callable[[], SharedStore]:
        return shared.store

    @pytest.fixture
    def open_other_version(self, shared: SharedMemory) -> Callable[[], SharedStore]:
        kind = getattr(self.subject, "other_version", SharedMemoryStore)
        return lambda: kind(shared.engine, shared.portal)


HURRIED = {"timeout_seconds": 1.0, "quiet_seconds": 0.03, "lease_seconds": 0.3}
