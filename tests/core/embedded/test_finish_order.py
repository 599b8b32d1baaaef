"""The order in which jobs finish: nothing that finishes later ever comes before what has been read."""

import time
from pathlib import Path

import anyio
import pytest
from clocks import GivenClock
from msgspec.structs import replace

from nodekit import Change, EmbeddedStore, Job, JobFields, JobQuery, JobStatus, Outcome, StoreFailed
from nodekit.embedded import retention
from nodekit.testing import SEQUENCE, Faults, make_job, succeeded
from nodekit_memory import MemoryTable
from nodekit_sqlite import SqliteStore

pytestmark = pytest.mark.anyio

DONE = Outcome(JobStatus.SUCCESS)
IN_ORDER = JobQuery(order="finished")


async def settle(store: EmbeddedStore, job: Job) -> None:
    assert await store.settle(job.id, DONE, client=None)


async def cursor(store: EmbeddedStore, job: Job) -> str:
    [stored] = await store.get([job.id], fields=JobFields.STATE)
    return IN_ORDER.cursor(stored)


async def test_a_job_is_found_once_all_that_took_a_lower_number_are_stored() -> None:
    faults = Faults()
    async with EmbeddedStore(faults.around(MemoryTable())) as store:
        slow, fast, later = await store.add([make_job() for _ in range(3)])
        held_up = faults.before("save", 1).hang()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(settle, store, slow)
            await held_up.happened()
            await settle(store, fast)
            assert await store.find(JobQuery(status=[JobStatus.SUCCESS])) == [fast.id]
            assert await store.find(IN_ORDER) == []
            faults.lift()
        assert await store.find(IN_ORDER) == [slow.id, fast.id]
        await settle(store, later)
        assert await store.find(IN_ORDER) == [slow.id, fast.id, later.id]


async def test_who_follows_is_woken_when_a_lower_number_is_given_up() -> None:
    faults = Faults()
    async with EmbeddedStore(faults.around(MemoryTable())) as store:
        slow, fast = await store.add([make_job() for _ in range(2)])
        held_up = faults.before("save", 1).hang()
        faults.before("save", 1).fail(StoreFailed("the disk is full"))
        async with store.changes() as changes, anyio.create_task_group() as tasks:
            tasks.start_soon(fails, store, slow)
            await held_up.happened()
            await settle(store, fast)
            assert await anext(changes) == Change(fast.id, finished=True)
            assert await store.find(IN_ORDER) == []
            faults.lift()
            with anyio.fail_after(60):
                await anext(changes)
            assert await store.find(IN_ORDER) == [fast.id]


async def fails(store: EmbeddedStore, job: Job) -> None:
    with pytest.raises(StoreFailed):
        await settle(store, job)


async def test_a_job_that_could_not_be_stored_holds_up_none() -> None:
    faults = Faults()
    async with EmbeddedStore(faults.around(MemoryTable())) as store:
        first, second = await store.add([make_job() for _ in range(2)])
        faults.before("save", 1).fail(StoreFailed("the disk is full"))
        with pytest.raises(StoreFailed):
            await settle(store, first)
        await settle(store, second)
        assert await store.find(IN_ORDER) == [second.id]
        behind = await cursor(store, second)
        await settle(store, first)
        assert await store.find(JobQuery(order="finished", after=behind)) == [first.id]


async def test_an_end_that_the_table_kept_without_saying_so_keeps_its_number() -> None:
    """Readers may have seen it. With another number it would come again, or hide what is between."""
    faults = Faults()
    async with EmbeddedStore(faults.around(MemoryTable())) as store:
        settled, saved, last = await store.add([make_job("other"), make_job(), make_job("other")])
        [claim] = await store.claim(["echo"], SEQUENCE, 1)
        faults.after("save", 1, 2).fail(StoreFailed("the answer was lost"))
        assert await store.settle(settled.id, DONE, client=None)
        with pytest.raises(StoreFailed):
            await store.save(claim, done := succeeded(claim.job))
        numbers = [job.finish_number for job in await store.get([settled.id, saved.id])]
        assert await store.find(IN_ORDER) == [settled.id, saved.id]
        await settle(store, last)
        await store.save(claim, done)
        assert [job.finish_number for job in await store.get([settled.id, saved.id])] == numbers
        assert claim.job.finish_number == numbers[1]
        assert await store.find(IN_ORDER) == [settled.id, saved.id, last.id]


async def test_an_end_that_was_not_kept_gets_a_new_number_when_it_is_tried_again() -> None:
    faults = Faults()
    async with EmbeddedStore(faults.around(MemoryTable())) as store:
        saved, other = await store.add([make_job(), make_job("other")])
        [claim] = await store.claim(["echo"], SEQUENCE, 1)
        faults.before("save", 1).fail(StoreFailed("the disk is full"))
        with pytest.raises(StoreFailed):
            await store.save(claim, done := succeeded(claim.job))
        await settle(store, other)
        await store.save(claim, done)
        assert await store.find(IN_ORDER) == [other.id, saved.id]


async def test_numbers_rise_although_the_clock_goes_back_and_the_store_is_opened_again(
    tmp_path: Path,
) -> None:
    path, clock = tmp_path / "jobs.db", GivenClock()
    async with SqliteStore(path, clock=clock) as store:
        jobs = await store.add([make_job() for _ in range(4)])
        await settle(store, jobs[0])
        clock.unix -= 10**9
        await settle(store, jobs[1])
    async with SqliteStore(path, clock=clock) as store:
        await settle(store, jobs[3])
        await settle(store, jobs[2])
        assert await store.find(IN_ORDER) == [jobs[place].id for place in (0, 1, 3, 2)]


async def test_numbers_rise_although_the_last_job_is_deleted_and_the_clock_goes_back(
    tmp_path: Path,
) -> None:
    path, clock = tmp_path / "jobs.db", GivenClock()
    async with SqliteStore(path, clock=clock) as store:
        first, second = await store.add([make_job() for _ in range(2)])
        await settle(store, first)
        behind = await cursor(store, first)
        assert await store.delete([first.id]) == 1
    clock.unix -= 10**9
    async with SqliteStore(path, clock=clock) as store:
        await settle(store, second)
        assert await store.find(JobQuery(order="finished", after=behind)) == [second.id]


# -- what is kept no longer ------------------------------------------------------------------------


async def test_jobs_that_are_deleted_otherwise_count_for_those_that_are_kept() -> None:
    async with EmbeddedStore(MemoryTable()) as store:
        jobs = await store.add([make_job() for _ in range(20)])
        for job in jobs:
            await settle(store, job)
        assert await store.expire(finished_before=None, keep=10, limit=5) == 5
        assert await store.delete([job.id for job in jobs[10:]]) == 10
        assert await store.expire(finished_before=None, keep=10, limit=5) == 0
        assert await store.find(IN_ORDER) == [job.id for job in jobs[5:10]]


async def test_fewer_jobs_are_deleted_at_once_if_they_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "MOST_BYTES", 5000)
    async with EmbeddedStore(MemoryTable()) as store:
        large = {"text": "x" * 2000}
        for job in await store.add([*(make_job(data=large) for _ in range(5)), *(make_job() for _ in range(8))]):
            await settle(store, job)
        [huge] = await store.add([make_job(data={"text": "x" * 6000})])
        await settle(store, huge)
        slices = [await store.expire(finished_before=None, keep=0, limit=10) for _ in range(6)]
    assert slices == [2, 2, 9, 1, 0, 0]


@pytest.mark.parametrize("ahead", [1, 3, 2000])
async def test_times_of_a_clock_that_was_ahead_keep_nothing_for_ever(ahead: int) -> None:
    table, now = MemoryTable(), time.time()
    jobs = [make_job() for _ in range(ahead + 5)]
    times = [now + 10**8] * ahead + [now - 100, now - 99, now - 98, now, now]
    ended = [job.finished(DONE, at) for job, at in zip(jobs, times, strict=True)]
    await table.add([replace(job, finish_number=number) for number, job in enumerate(ended, 1)])
    async with EmbeddedStore(table) as store:
        assert await store.expire(finished_before=now - 10**6, keep=None, limit=10) == 0
        deleted = 0
        while some := await store.expire(finished_before=now - 50, keep=None, limit=100):
            deleted += some
        assert deleted == ahead + 3
        assert await store.find(IN_ORDER) == [job.id for job in jobs[-2:]]


# -- cursors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["", "-1", "x", "1.5", "²", "9" * 19, "018f0000-0000-7000-8000-000000000000"])
def test_a_cursor_of_another_order_is_an_error(wrong: str) -> None:
    for name in ("after", "before"):
        with pytest.raises(ValueError, match=f"{name}: expected a cursor of the order finished"):
            JobQuery(order="finished", **{name: wrong})
