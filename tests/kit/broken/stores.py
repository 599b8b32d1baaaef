"""Stores that break a promise each. `test_caught.py` runs the suite on them, and `test_store_model.py` the model."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from nodekit import (
    Change,
    Claim,
    EmbeddedStore,
    Job,
    JobId,
    JobQuery,
    JobStatus,
    Outcome,
    Pending,
    Record,
    Settlement,
    StepRecord,
    Unfinished,
    Write,
)
from nodekit.testing import JobStoreContract
from nodekit_memory import MemoryTable


class Sound(EmbeddedStore):
    """A store in memory."""

    def __init__(self, table: MemoryTable | None = None) -> None:
        super().__init__(table or MemoryTable())

    def storage(self, namespace: str) -> Any:
        return self.table.storage(namespace)


class ShowsNumbersTooEarly(Sound):
    """Stores some jobs later than others that took a higher number, and shows those meanwhile."""

    def __init__(self, table: MemoryTable | None = None) -> None:
        super().__init__(table)
        self._saving.save = self._save  # type: ignore[method-assign]

    async def find(self, query: JobQuery) -> list[JobId]:
        return await self.table.find(query)

    async def _save(self, job: Job) -> Job:
        number = self._finish_numbers.take()
        await anyio.sleep(0.01 * (number % 3))
        await self.table.save(job := replace(job, finish_number=number))
        return job


class ExpiresTheLast(Sound):
    async def expire(self, *, finished_before: float | None, keep: int | None, limit: int) -> int:
        ids = (await self.find(JobQuery(order="finished")))[::-1]
        return await self.delete(ids[:limit] if keep is None else ids[keep:][:limit])


class IgnoresConditions(Sound):
    def storage(self, namespace: str) -> Any:
        records = super().storage(namespace)
        batch = records.batch
        records.batch = lambda writes: batch([Write(write.key, write.value) for write in writes])
        return records


class WritesOneByOne(Sound):
    def storage(self, namespace: str) -> Any:
        records = super().storage(namespace)
        batch = type(records).batch

        async def one_by_one(writes: Sequence[Write]) -> list[int]:
            return [version for write in writes for version in await batch(records, [write])]

        records.batch = one_by_one
        return records


class HasOneNamespace(Sound):
    def storage(self, namespace: str) -> Any:
        return super().storage("all")


class ScansByWriting(Sound):
    def storage(self, namespace: str) -> Any:
        records = super().storage(namespace)
        scan = type(records).scan

        async def unsorted(*args: Any, **asked: Any) -> list[Record]:
            return sorted(await scan(records, *args, **asked), key=lambda record: record.version)

        records.scan = unsorted
        return records


class BeginsVersionsAnew(Sound):
    def storage(self, namespace: str) -> Any:
        records = super().storage(namespace)
        delete = type(records).delete

        async def forget(key: str, **asked: Any) -> bool:
            records._versions = count(1)
            return await delete(records, key, **asked)

        records.delete = forget
        return records


class ForgetsToAskForErrors(Sound):
    async def find(self, query: JobQuery) -> list[JobId]:
        return await super().find(replace(query, container=None, error=None))


class AddsWithoutSteps(Sound):
    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        return await super().add([replace(job, steps=()) for job in jobs])


class CompletesTwice(Sound):
    """Has no fencing: the holder of a lost claim may still write."""

    async def save(self, claim: Claim, job: Job) -> None:
        if self._claims.get(job.id) is claim:
            await super().save(claim, job)
        else:
            await self.table.save(job)


class ClaimsTwice(Sound):
    async def claim(self, *asked: Any, **more: Any) -> list[Claim]:
        claims = await super().claim(*asked, **more)
        self._queue.put(Unfinished.of(claims[-1].job))
        return claims


class Reorders(Sound):
    async def claim(self, *asked: Any, **more: Any) -> list[Claim]:
        return (await super().claim(*asked, **more))[::-1]


class KnowsNoRoom(Sound):
    async def claim(self, *asked: Any, **more: Any) -> list[Claim]:
        return await super().claim(*asked, **{**more, "room": replace(more["room"], most_bytes=None)})


class KeepsWhatItIsGiven(Sound):
    """Keeps the newest state of a job as it is, with the outputs that are left out in it."""

    def __init__(self, table: MemoryTable | None = None) -> None:
        super().__init__(table)
        save = self.table.save

        async def overwrite(job: Job) -> None:
            await save(job)
            self.table._jobs[job.id] = job

        self.table.save = overwrite  # type: ignore[method-assign]


class LeavesThemOut(Sound):
    """Adds retries as they are given."""

    def __init__(self, table: MemoryTable | None = None) -> None:
        super().__init__(table)
        self.table.shares_payloads = True  # type: ignore[attr-defined]


class ReadsFromTheStart(Sound):
    async def steps(self, id: JobId, first: int, most_bytes: int) -> Sequence[StepRecord]:
        return await super().steps(id, 0, most_bytes)


class QueuesWrongly(Sound):
    def __init__(self, table: MemoryTable | None = None) -> None:
        super().__init__(table)
        put = self._queue.put

        def altered(entry: Unfinished, *, delay_seconds: float | None = None) -> None:
            put(self.alter(entry, delay_seconds), delay_seconds=self.alter_delay(delay_seconds))

        self._queue.put = altered  # type: ignore[method-assign]

    def alter(self, entry: Unfinished, delay_seconds: float | None) -> Unfinished:
        return entry

    def alter_delay(self, seconds: float | None) -> float | None:
        return seconds


class IgnoresPriority(QueuesWrongly):
    def alter(self, entry: Unfinished, delay_seconds: float | None) -> Unfinished:
        return replace(entry, priority=3)


class StarvesAClient(QueuesWrongly):
    def alter(self, entry: Unfinished, delay_seconds: float | None) -> Unfinished:
        return replace(entry, group="everybody")


class IgnoresDelay(QueuesWrongly):
    def alter_delay(self, seconds: float | None) -> float | None:
        return None if seconds is None else 0


class IgnoresQueueTimeout(QueuesWrongly):
    def alter(self, entry: Unfinished, delay_seconds: float | None) -> Unfinished:
        return replace(entry, queue_timeout_seconds=None)


class IgnoresJobTimeout(QueuesWrongly):
    def alter(self, entry: Unfinished, delay_seconds: float | None) -> Unfinished:
        return replace(entry, timeout_seconds=None)


class CountsDelayAsWaiting(QueuesWrongly):
    def alter(self, entry: Unfinished, delay_seconds: float | None) -> Unfinished:
        limit = entry.queue_timeout_seconds
        return replace(entry, queue_timeout_seconds=None if limit is None else limit - (delay_seconds or 0))


class ExpiresWhatRuns(Sound):
    async def claim_expired(self, limit: int, **more: Any) -> list[Claim]:
        while True:
            for held in self._claims.values():
                if held.job.queue_timeout_seconds is not None:
                    return [held]
            await anyio.sleep(0.01)


class IgnoresContainers(Sound):
    async def claim(self, *asked: Any, **more: Any) -> list[Claim]:
        containers, pipelines, limit = asked
        return await super().claim({"echo", "reverse", *containers}, pipelines, limit, **more)


class IgnoresRoom(Sound):
    async def claim(self, *asked: Any, **more: Any) -> list[Claim]:
        return await super().claim(*asked, **{**more, "room": None})


class LosesWhatIsCancelled(Sound):
    async def claim(self, *asked: Any, **more: Any) -> list[Claim]:
        claims = await super().claim(*asked, **more)
        await anyio.sleep(0.0005)
        return claims


class SettleOverwrites(Sound):
    async def settle(self, id: JobId, outcome: Outcome, *, client: str | None, **call: Any) -> Settlement | None:
        [job] = await self.table.get([id])
        finished = replace(job, status=JobStatus.RUNNING).finished(outcome, 1.0)
        await self.table.save(finished)
        return Settlement(finished, now=True)


class ForgetsTheCall(Sound):
    async def settle(self, id: JobId, outcome: Outcome, *, client: str | None, **call: Any) -> Settlement | None:
        return await super().settle(id, outcome, client=client)


class SettlesForAnybody(Sound):
    async def settle(self, id: JobId, outcome: Outcome, *, client: str | None, **call: Any) -> Settlement | None:
        return await super().settle(id, outcome, client=None, **call)


class LeavesRunning(Sound):
    """Does not cancel the scope of a settled job."""

    async def _settle_now(self, id: JobId, *outcome: Any) -> Settlement | None:
        if held := self._claims.get(id):
            held.scope = anyio.CancelScope()
        return await super()._settle_now(id, *outcome)


class OffersStreams(Sound):
    async def add_claimed(self, job: Job) -> Claim:
        claim = await super().add_claimed(job)
        self._queue.put(Unfinished.of(job))
        return claim


class MiscountsClients(Sound):
    async def pending(self, groups: Collection[str] = ()) -> Pending:
        return replace(await super().pending(groups), groups={})


class CountsAllGroups(Sound):
    async def pending(self, groups: Collection[str] = ()) -> Pending:
        return await super().pending(list(self._counts._groups))


class IgnoresPipelines(Sound):
    async def claim(self, *asked: Any, **more: Any) -> list[Claim]:
        containers, _, limit = asked
        return await super().claim(containers, ["sequence", "mine", "other"], limit, **more)


class TellsEverybody(Sound):
    """Reports changes of all jobs, whichever were asked for."""

    def changes(self, ids: Collection[JobId] | None = None) -> AbstractAsyncContextManager[Any]:
        return super().changes()


class CountsForever(Sound):
    def _finish(self, id: JobId) -> None:
        entry = self._unfinished[id]
        super()._finish(id)
        self._counts.one(entry, +1)


class Silent(Sound):
    @asynccontextmanager
    async def changes(self, ids: Any = None) -> AsyncIterator[AsyncIterator[Change | None]]:  # type: ignore[override]
        self._feed.publish = lambda id: None  # type: ignore[method-assign]
        async with super().changes(ids) as changes:
            yield changes


class MissesQuietly(Sound):
    @asynccontextmanager
    async def changes(self, ids: Any = None) -> AsyncIterator[AsyncIterator[Change | None]]:  # type: ignore[override]
        async def known(changes: AsyncIterator[Change | None]) -> AsyncIterator[Change]:
            async for change in changes:
                if change is not None:
                    yield change

        async with super().changes(ids) as changes:
            yield (some := known(changes))
            await some.aclose()  # type: ignore[attr-defined]


class StopsAdding(Sound):
    """Keeps the jobs of a cancelled add without queueing them."""

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        kept = await self.table.add(jobs)
        await anyio.sleep(0.001)
        await self.table.delete(())
        for job in jobs:
            if self._is_new(job, job):
                self._track(entry := Unfinished.of(job))
                self._queue.put(entry)
        return kept


class Suite(JobStoreContract):
    subject: type[Sound]

    @pytest.fixture
    async def store(self) -> AsyncIterator[Sound]:
        async with self.subject() as store:
            yield store


HURRIED = {"timeout_seconds": 0.5, "quiet_seconds": 0.02}
