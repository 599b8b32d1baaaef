"""Stores behave like a model of plain Python under any calls, and the suite notices when they do not."""

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from chance import DRILLS, each_run
from hypothesis import Phase
from hypothesis.errors import FlakyFailure
from kit.broken import stores, tables
from msgspec.structs import replace

from nodekit import (
    Claim,
    EmbeddedStore,
    Job,
    JobId,
    JobQuery,
    JobStatus,
    JobStore,
    Outcome,
    Settlement,
    Unfinished,
)
from nodekit.testing import SEQUENCE, VirtualClock, make_job
from nodekit.testing.store_model.contract import JobStoreModelContract
from nodekit_memory import MemoryTable
from nodekit_sqlite import SqliteTable

SHARED_MEMORY = Path("/dev/shm")
TIMES = each_run(1, 20)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class TestMemoryStore(JobStoreModelContract):
    max_examples = 200 * TIMES
    derandomize = not DRILLS

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Callable[[], JobStore]]:
        table = MemoryTable()
        yield lambda: EmbeddedStore(table)


class SlowTable(MemoryTable):
    """Answers after some turns of the event loop, so that claims are cancelled while their jobs are being read."""

    def __init__(self) -> None:
        super().__init__()
        self._calls = 0

    async def get(self, ids: Sequence[JobId], **asked: Any) -> list[Job]:
        await self._turns()
        return await super().get(ids, **asked)

    async def save(self, job: Job) -> None:
        await self._turns()
        await super().save(job)
        await self._turns()

    async def _turns(self) -> None:
        self._calls += 1
        for _ in range(self._calls % 7):
            await anyio.lowlevel.checkpoint()


class TestStoreOfASlowTable(TestMemoryStore):
    max_examples = 100 * TIMES

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Callable[[], JobStore]]:
        table = SlowTable()
        yield lambda: EmbeddedStore(table)


class TestSqliteStore(JobStoreModelContract):
    max_examples = 100 * TIMES
    derandomize = not DRILLS

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Callable[[], JobStore]]:
        with TemporaryDirectory(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as folder:
            yield lambda: EmbeddedStore(SqliteTable(Path(folder) / "jobs.db", synchronous="NORMAL"))


# -- what it found, in short -----------------------------------------------------------------------


async def one_by_one(store: JobStore, containers: Collection[str], count: int) -> list[Job]:
    return [claim.job for _ in range(count) for claim in await store.claim(containers, SEQUENCE, 1)]


@pytest.mark.anyio
async def test_a_client_that_waits_in_one_container_is_served_before_another_is_twice_in_another() -> None:
    async with EmbeddedStore(MemoryTable()) as store:
        await store.add([make_job("y", client="alice"), make_job("y", client="bob")])
        await store.add([make_job("x", client="alice") for _ in range(10)])
        jobs = await one_by_one(store, ["x", "y"], 5)
    assert "bob" in {job.client for job in jobs}
    assert ("alice", "y") in {(job.client, job.due) for job in jobs}


@pytest.mark.anyio
async def test_a_job_that_was_released_without_a_delay_is_due_after_a_restart_too() -> None:
    table = MemoryTable()
    with VirtualClock() as clock:
        async with EmbeddedStore(table) as store:
            await store.add([replace(make_job(), timeout_seconds=15.0)])
            [claim] = await store.claim(["echo"], SEQUENCE, 1)
            await store.release(claim, claim.job, delay_seconds=1000)
            await clock.advance(20)
            [claim] = await store.claim_expired(1)
            await store.release(claim, claim.job)
        async with EmbeddedStore(table) as store:
            with anyio.fail_after(0.05):
                assert await store.claim(["echo"], SEQUENCE, 1)


class StuckTable(MemoryTable):
    """Can be made to read for ever."""

    stuck = False

    async def get(self, ids: Sequence[JobId], **asked: Any) -> list[Job]:
        if self.stuck:
            await anyio.sleep_forever()
        return await super().get(ids, **asked)


@pytest.mark.anyio
async def test_a_claim_that_is_cancelled_costs_a_job_none_of_the_time_it_has_waited() -> None:
    table = StuckTable()
    with VirtualClock() as clock:
        async with EmbeddedStore(table) as store:
            await store.add([replace(make_job(), queue_timeout_seconds=15.0)])
        async with EmbeddedStore(table) as store:
            await clock.advance(10)
            table.stuck = True
            with anyio.move_on_after(0.01):
                await store.claim(["echo"], SEQUENCE, 1)
            table.stuck = False
            await clock.advance(10)
            with anyio.fail_after(0.05):
                assert await store.claim_expired(1)


# -- broken stores ---------------------------------------------------------------------------------


class DelaysTenfold(stores.QueuesWrongly):
    def alter_delay(self, seconds: float | None) -> float | None:
        return None if seconds is None else 10 * seconds


class SettlesTwice(EmbeddedStore):
    async def settle(self, id: JobId, outcome: Outcome, *, client: str | None, **call: Any) -> Settlement | None:
        settled = await super().settle(id, outcome, client=client, **call)
        if settled is None or settled.now:
            return settled
        again = replace(settled.job, status=JobStatus.RUNNING).finished(outcome, 1.0)
        await self.table.save(again)
        return Settlement(again, now=True)


class LosesTheSecondOfAClaim(EmbeddedStore):
    async def claim(self, *asked: Any, **more: Any) -> list[Claim]:
        return (await super().claim(*asked, **more))[:1]


class ReleasesSilently(EmbeddedStore):
    async def release(self, claim: Claim, job: Job, *, delay_seconds: float = 0) -> None:
        publish, self._feed.publish = self._feed.publish, lambda id: None  # type: ignore[method-assign]
        try:
            await super().release(claim, job, delay_seconds=delay_seconds)
        finally:
            self._feed.publish = publish  # type: ignore[method-assign]


class ForgetsDelays(MemoryTable):
    async def unfinished(self) -> list[Unfinished]:
        return [replace(entry, not_before=None) for entry in await super().unfinished()]


class ForgetsTimeLimits(MemoryTable):
    async def unfinished(self) -> list[Unfinished]:
        return [replace(one, timeout_seconds=None, queue_timeout_seconds=None) for one in await super().unfinished()]


class ForgetsWhatWasCancelled(MemoryTable):
    """Gives out cancelled jobs again after the next start."""

    async def unfinished(self) -> list[Unfinished]:
        cancelled = [job for job in self._jobs.values() if job.status is JobStatus.CANCELLED]
        return [*await super().unfinished(), *(replace(Unfinished.of(job), due="x") for job in cancelled)]


class LosesWhatWasClaimed(MemoryTable):
    async def unfinished(self) -> list[Unfinished]:
        begun = {job.id for job in self._jobs.values() if job.status is JobStatus.RUNNING}
        return [entry for entry in await super().unfinished() if entry.id not in begun]


class ForgetsStreams(MemoryTable):
    async def unfinished(self) -> list[Unfinished]:
        return [replace(entry, streams=False) for entry in await super().unfinished()]


class FindsTheCursor(MemoryTable):
    async def find(self, query: JobQuery) -> list[JobId]:
        found = await super().find(query)
        return [query.after, *found][: query.limit] if query.after in self._jobs else found


def caught(store: type[EmbeddedStore], table: type[MemoryTable]) -> bool:
    """Return True if the suite fails. It need not look for the shortest sequence."""

    class Suite(TestMemoryStore):
        max_examples = 1000
        timeout_seconds = 0.2
        derandomize = True
        phases = (Phase.generate,)

        @asynccontextmanager
        async def place(self) -> AsyncIterator[Callable[[], JobStore]]:
            kept = table()
            yield lambda: store(kept)

    try:
        Suite().test_random_sequences_do_as_the_model_does()
    except (AssertionError, TimeoutError, pytest.fail.Exception, FlakyFailure):  # the last: it fails at times
        return True
    return False


@pytest.mark.parametrize(
    "broken",
    [
        stores.StarvesAClient,
        stores.IgnoresPriority,
        stores.IgnoresQueueTimeout,
        stores.IgnoresJobTimeout,
        stores.IgnoresDelay,
        *each_run([], [DelaysTenfold]),  # takes some hundred sequences
        stores.Reorders,
        stores.CompletesTwice,
        SettlesTwice,
        stores.SettlesForAnybody,
        stores.ClaimsTwice,
        LosesTheSecondOfAClaim,
        stores.CountsForever,
        ReleasesSilently,
    ],
)
def test_the_model_catches_a_store_that(broken: type[EmbeddedStore]) -> None:
    assert caught(broken, MemoryTable)


@pytest.mark.parametrize(
    "broken",
    [
        ForgetsTimeLimits,
        *each_run([], [ForgetsDelays, ForgetsWhatWasCancelled]),  # take some hundred sequences
        LosesWhatWasClaimed,
        ForgetsStreams,
        tables.LosesTheOther,
        tables.AddsTwice,
        tables.DeletesUnfinished,
        tables.FindsErrorsOfSteps,
        FindsTheCursor,
    ],
)
def test_the_model_catches_a_table_that(broken: type[MemoryTable]) -> None:
    assert caught(EmbeddedStore, broken)
