"""`EmbeddedStore` with a failing or slow table, and under concurrent calls: nothing is lost or done twice."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from components import functions, give_up, make_node, request, settle_down

from nodekit import (
    Claim,
    ClaimLost,
    EmbeddedStore,
    Job,
    JobId,
    JobQuery,
    JobStatus,
    Location,
    Outcome,
    Settlement,
    StoreFailed,
    Unfinished,
)
from nodekit.testing import SEQUENCE, Faults, JobStoreContract, make_job, succeeded, with_output
from nodekit_memory import MemoryTable
from nodekit_sqlite import SqliteStore

pytestmark = pytest.mark.anyio

CANCELLED = Outcome(JobStatus.CANCELLED)


FULL = StoreFailed("the disk is full")


@pytest.fixture
def faults() -> Faults:
    """Faults of the table of `store`."""
    return Faults()


@pytest.fixture
async def store(faults: Faults) -> AsyncIterator[EmbeddedStore]:
    async with EmbeddedStore(faults.around(MemoryTable())) as store:
        yield store


async def claim(store: EmbeddedStore, job: Job | None = None) -> Claim:
    if job is not None:
        await store.add([job])
    with anyio.fail_after(60):
        [claim] = await store.claim(["echo"], SEQUENCE, 1)
    return claim


async def nothing_to_claim(store: EmbeddedStore) -> bool:
    return await give_up(lambda: store.claim(["echo"], SEQUENCE, 1))


def forget_fresh(store: EmbeddedStore) -> None:
    """Empty the store's recent jobs, so that a claim reads the job from the table."""
    for id in list(store._unfinished):
        store._fresh.pop(id)


def slow(method: str) -> Any:
    async def call(table: MemoryTable, *args: Any, **kwargs: Any) -> Any:
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        answer = await getattr(MemoryTable, method)(table, *args, **kwargs)
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        return answer

    return call


class SlowTable(MemoryTable):
    add, save, get, find, delete = map(slow, ("add", "save", "get", "find", "delete"))


class TestOverASlowTable(JobStoreContract):
    """Every call takes some turns of the event loop, so that calls overlap in other ways."""

    @pytest.fixture
    async def store(self) -> AsyncIterator[EmbeddedStore]:
        async with EmbeddedStore(SlowTable()) as store:
            yield store


# -- the table fails -----------------------------------------------------------------------------


async def test_what_could_not_be_added_is_neither_queued_nor_counted(faults: Faults, store: EmbeddedStore) -> None:
    faults.before("add").fail(FULL)
    job = make_job()
    with pytest.raises(StoreFailed):
        await store.add([job])
    with pytest.raises(StoreFailed):
        await store.add_claimed(make_job(destination=Location.STREAM))
    assert (await store.pending()).total == 0
    assert await nothing_to_claim(store)
    faults.lift()
    assert await store.add([job]) == [job]
    assert (await claim(store)).job == job


async def test_a_claim_that_could_not_be_read_leaves_the_jobs_queued(faults: Faults, store: EmbeddedStore) -> None:
    jobs = [make_job() for _ in range(3)]
    await store.add(jobs)
    forget_fresh(store)
    faults.before("get").fail(FULL)
    for _ in range(3):
        with pytest.raises(StoreFailed):
            await store.claim(["echo"], SEQUENCE, 2)
    faults.lift()
    claims = await store.claim(["echo"], SEQUENCE, 3)
    assert [claim.job for claim in claims] == jobs


@pytest.mark.parametrize("finished", [False, True])
async def test_a_save_that_failed_can_be_tried_again(faults: Faults, store: EmbeddedStore, finished: bool) -> None:
    held = await claim(store, make_job())
    newer = succeeded(held.job) if finished else with_output(held.job)
    faults.before("save").fail(FULL)
    for _ in range(2):
        with pytest.raises(StoreFailed):
            await store.save(held, newer)
    assert held.job.steps == ()
    assert (await store.pending()).total == 1
    faults.lift()
    await store.save(held, newer)
    assert await store.get([newer.id]) == [held.job]


@pytest.mark.parametrize("destination", [Location.OFFCHAIN, Location.STREAM])
async def test_a_release_that_failed_can_be_tried_again(
    faults: Faults, store: EmbeddedStore, destination: Location
) -> None:
    job = make_job(destination=destination)
    held = await (store.add_claimed(job) if destination is Location.STREAM else claim(store, job))
    faults.before("save").fail(FULL)
    with pytest.raises(StoreFailed):
        await store.release(held, with_output(job))
    assert await nothing_to_claim(store)
    assert (await store.pending()).total == 1
    faults.lift()
    await store.release(held, with_output(job))
    if destination is Location.STREAM:
        assert (await store.get([job.id]))[0].status is JobStatus.FAILED
        assert (await store.pending()).total == 0
    else:
        assert len((await claim(store)).job.steps) == 1


@pytest.mark.parametrize("call", ["get", "save"])
async def test_a_settlement_that_failed_leaves_a_queued_job_queued(
    faults: Faults, store: EmbeddedStore, call: str
) -> None:
    await store.add([job := make_job()])
    faults.before(call).fail(FULL)
    with pytest.raises(StoreFailed):
        await store.settle(job.id, CANCELLED, client=None)
    faults.lift()
    assert (await claim(store)).job == job
    assert (await store.pending()).total == 1


async def test_a_settlement_that_failed_leaves_a_claim_worth_something(faults: Faults, store: EmbeddedStore) -> None:
    held = await claim(store, make_job())
    faults.before("save").fail(FULL)
    with pytest.raises(StoreFailed):
        await store.settle(held.job.id, CANCELLED, client=None)
    faults.lift()
    assert not held.scope.cancel_called
    assert await nothing_to_claim(store)
    await store.save(held, done := succeeded(held.job))
    assert await store.get([done.id]) == [held.job]


async def test_a_save_during_a_settlement_that_fails_is_kept(faults: Faults, store: EmbeddedStore) -> None:
    held = await claim(store, make_job())
    held_up = faults.before("save", 1).hang()
    faults.before("save").fail(FULL)

    async def settle() -> None:
        with pytest.raises(StoreFailed):
            await store.settle(held.job.id, CANCELLED, client=None)

    done = succeeded(held.job)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(settle)
            await held_up.happened()
            tasks.start_soon(store.save, held, done)
            await anyio.wait_all_tasks_blocked()
            faults.lift()
    assert await store.get([done.id]) == [held.job]
    assert (await store.pending()).total == 0


async def test_a_settlement_that_fails_while_the_job_is_being_claimed_makes_no_second_claim(
    faults: Faults, store: EmbeddedStore
) -> None:
    await store.add([job := make_job()])
    forget_fresh(store)
    held_up = faults.after("get", 1).hang()
    claims: list[Claim] = []

    async def take() -> None:
        claims.extend(await store.claim(["echo"], SEQUENCE, 1))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take)
            await held_up.happened()
            faults.before("save").fail(FULL)
            with pytest.raises(StoreFailed):
                await store.settle(job.id, CANCELLED, client=None)
            faults.lift()
    assert [held.job for held in claims] == [job]
    assert await nothing_to_claim(store)
    await store.save(claims[0], succeeded(job))


async def test_a_settlement_that_succeeds_while_the_job_is_being_claimed_leaves_no_claim(
    faults: Faults, store: EmbeddedStore
) -> None:
    await store.add([job := make_job()])
    forget_fresh(store)
    held_up = faults.after("get", 1).hang()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.claim, ["echo"], SEQUENCE, 1)
        await held_up.happened()
        await store.settle(job.id, CANCELLED, client=None)
        faults.lift()
        await anyio.wait_all_tasks_blocked()
        assert store._claims == {}
        tasks.cancel_scope.cancel()
    assert (await store.pending()).total == 0


async def test_settle_answers_the_job_as_it_is_when_it_finished_meanwhile(faults: Faults, store: EmbeddedStore) -> None:
    held = await claim(store, make_job())
    done = succeeded(held.job)
    held_up = faults.after("get", 1).hang()
    answers: list[Settlement | None] = []

    async def settle() -> None:
        answers.append(await store.settle(done.id, CANCELLED, client="alice"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(settle)
        await held_up.happened()
        await store.save(held, done)
        faults.lift()
    assert answers == [Settlement(held.job, now=False)]


@pytest.mark.parametrize("saved", [False, True], ids=["step", "finish"])
async def test_a_settlement_during_a_save_comes_after_it(faults: Faults, store: EmbeddedStore, saved: bool) -> None:
    held = await claim(store, make_job())
    newer = succeeded(held.job) if saved else with_output(held.job, {"a": 1})
    held_up = faults.after("save", 1).hang()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.save, held, newer)
        await held_up.happened()
        tasks.start_soon(lambda: store.settle(newer.id, CANCELLED, client=None))
        await anyio.wait_all_tasks_blocked()
        faults.lift()
    [kept] = await store.get([newer.id])
    assert kept.status is (JobStatus.SUCCESS if saved else JobStatus.CANCELLED)
    assert kept.steps == newer.steps
    with pytest.raises(ClaimLost):
        await store.save(held, newer)


async def test_a_settlement_during_a_release_leaves_nothing_queued(faults: Faults, store: EmbeddedStore) -> None:
    held = await claim(store, make_job())
    held_up = faults.after("save", 1).hang()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.release, held, with_output(held.job))
        await held_up.happened()
        tasks.start_soon(lambda: store.settle(held.job.id, CANCELLED, client=None))
        await anyio.wait_all_tasks_blocked()
        faults.lift()
    [kept] = await store.get([held.job.id])
    assert kept.status is JobStatus.CANCELLED
    assert await nothing_to_claim(store)
    assert (await store.pending()).total == 0


class ClosedTable(MemoryTable):
    """Records the types of the exceptions it was closed with."""

    def __init__(self) -> None:
        super().__init__()
        self.closed: list[type[BaseException] | None] = []

    async def __aexit__(self, kind: Any = None, *error: object) -> None:
        self.closed.append(kind)


async def test_a_table_that_fails_at_its_opening_is_closed_again() -> None:
    class Unreadable(ClosedTable):
        async def unfinished(self) -> Sequence[Unfinished]:
            raise StoreFailed("unreadable")

    table = Unreadable()
    with pytest.raises(StoreFailed, match="unreadable"):
        await EmbeddedStore(table).__aenter__()
    assert len(table.closed) == 1


async def test_a_table_is_closed_with_its_store_once_what_was_begun_is_done(faults: Faults) -> None:
    table, held_up = ClosedTable(), faults.before("add").hang()

    async def let_go() -> None:
        await settle_down()
        assert not table.closed, "closed while it was written to"
        faults.lift()

    async with anyio.create_task_group() as tasks:
        async with EmbeddedStore(faults.around(table)) as store:
            tasks.start_soon(store.add, [job := make_job()])
            await held_up.happened()
            tasks.start_soon(let_go)
    assert table.closed == [None]
    assert await table.get([job.id]) == [job]


async def test_a_table_is_closed_with_a_store_that_is_left_by_an_error() -> None:
    table = ClosedTable()
    with pytest.raises(KeyError):
        async with EmbeddedStore(table):
            raise KeyError
    assert table.closed == [KeyError]


# -- the caller goes away ------------------------------------------------------------------------


async def test_of_the_calls_of_a_table_only_reads_and_delete_are_cancelled_with_whoever_asked(
    faults: Faults, store: EmbeddedStore
) -> None:
    held = [await claim(store, make_job()) for _ in range(2)]
    [other] = await store.add([make_job("other")])
    calls: list[tuple[str, Callable[[], Awaitable[Any]]]] = [
        ("add", lambda: store.add([make_job()])),
        ("add", lambda: store.add_claimed(make_job(destination=Location.STREAM))),
        ("save", lambda: store.save(held[0], with_output(held[0].job))),
        ("save", lambda: store.release(held[1], with_output(held[1].job))),
        ("save", lambda: store.settle(other.id, CANCELLED, client=None)),
        ("get", lambda: store.get([other.id])),
        ("find", lambda: store.find(JobQuery(limit=1))),
        ("delete", lambda: store.delete([other.id])),
    ]
    cancelled: set[str] = set()
    for method, call in calls:
        held_up, worked = faults.before(method).hang(), faults.after(method).delay(0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await held_up.happened()
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await settle_down()
            faults.lift()
        await settle_down()
        if not worked.times:
            cancelled.add(method)
    assert cancelled == {"get", "find", "delete"}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncios_own_cancel_leaves_no_job_that_nobody_runs_and_changes_no_end(tmp_path: Path) -> None:
    async def quick(data: Any) -> Any:
        await asyncio.sleep(0.001)
        return data

    ends: dict[JobId, JobStatus] = {}
    async with make_node(functions(quick=quick), store=SqliteStore(tmp_path / "jobs.db")) as node:
        for number in range(60):
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(node.submit(request("quick")), number % 20 / 5000)
            job = await node.submit(request("quick"))
            ending = asyncio.ensure_future(node.cancel(job.id))
            await asyncio.sleep(number % 7 / 3000)
            ending.cancel()
            with suppress(asyncio.CancelledError):
                await ending
            [job] = await node.fetch([job.id])
            if job.status.finished:
                ends[job.id] = job.status
        with anyio.fail_after(60):
            await node.wait(await node.find(JobQuery(limit=1000)))
        assert {job.id: job.status for job in await node.fetch(list(ends))} == ends
        assert (await node.pending()).total == 0


async def test_a_cancel_that_was_kept_is_one_even_if_the_answer_was_lost(faults: Faults, store: EmbeddedStore) -> None:
    held = await claim(store, make_job())
    [queued] = await store.add([make_job()])
    faults.after("save").fail(StoreFailed("the connection was lost"))
    for job in (queued, held.job):
        settled = await store.settle(job.id, CANCELLED, client=None)
        assert settled.job.status is JobStatus.CANCELLED
    faults.lift()
    with pytest.raises(ClaimLost):
        await store.save(held, succeeded(held.job))
    assert (await store.pending()).total == 0


async def test_a_job_that_turns_out_to_be_finished_is_not_given_out() -> None:
    table = MemoryTable()
    async with EmbeddedStore(table) as store:
        await store.add([job := make_job(), other := make_job()])
        store._fresh.pop(job.id)
        await table.save(succeeded(job))
        assert [claim.job.id for claim in await store.claim(["echo"], SEQUENCE, 2)] == [other.id]
        assert (await store.pending()).total == 1


async def test_a_write_that_waits_behind_the_end_of_its_job_is_refused() -> None:
    faults = Faults()
    async with EmbeddedStore(faults.around(MemoryTable())) as store:
        held = await claim(store, make_job())
        hang = faults.after("save", 1).hang()
        ended, late = succeeded(held.job), with_output(held.job, {"too": "late"})
        refused: list[ClaimLost] = []

        async def save_late() -> None:
            await hang.happened()
            with pytest.raises(ClaimLost) as raised:
                await store.save(held, late)
            refused.append(raised.value)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.save, held, ended)
            tasks.start_soon(save_late)
            await hang.happened()
            await settle_down()
            faults.lift()
        assert len(refused) == 1
        assert await store.get([ended.id]) == [held.job]
        assert held.job.status.finished
