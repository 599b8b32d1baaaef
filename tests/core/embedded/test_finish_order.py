"""The order in which jobs finish: nothing that finishes later ever comes before what has been read."""

from pathlib import Path

import anyio
import pytest

from nodekit import Change, EmbeddedStore, Job, JobFields, JobQuery, JobStatus, Outcome, StoreFailed
from nodekit.testing import Faults, make_job
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


async def test_an_end_that_the_table_kept_without_saying_so_comes_behind_what_was_read_meanwhile() -> None:
    faults = Faults()
    async with EmbeddedStore(faults.around(MemoryTable())) as store:
        first, second = await store.add([make_job("echo"), make_job("other")])
        faults.after("save", 1).fail(lost := StoreFailed("the answer was lost"))
        faults.before("get", 3).fail(lost)
        with pytest.raises(StoreFailed):
            await settle(store, first)
        faults.lift()
        await settle(store, second)
        behind = await cursor(store, second)
        with anyio.move_on_after(0.05):
            await store.claim(["echo"], 1)
        assert (await store.get([first.id]))[0].status.finished
        assert await store.find(JobQuery(order="finished", after=behind)) == [first.id]


async def test_numbers_rise_although_the_clock_goes_back_and_the_store_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "jobs.db"
    async with SqliteStore(path) as store:
        jobs = await store.add([make_job() for _ in range(4)])
        await settle(store, jobs[0])
        monkeypatch.setattr("nodekit.embedded.finish_numbers.time.time_ns", lambda: 10**18)
        await settle(store, jobs[1])
    async with SqliteStore(path) as store:
        await settle(store, jobs[3])
        await settle(store, jobs[2])
        assert await store.find(IN_ORDER) == [jobs[place].id for place in (0, 1, 3, 2)]


@pytest.mark.parametrize("wrong", ["", "-1", "x", "1.5", "²", "9" * 19, "018f0000-0000-7000-8000-000000000000"])
def test_a_cursor_of_another_order_is_an_error(wrong: str) -> None:
    for name in ("after", "before"):
        with pytest.raises(ValueError, match=f"{name}: expected a cursor of the order finished"):
            JobQuery(order="finished", **{name: wrong})
