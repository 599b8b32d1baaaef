"""`EmbeddedStore` with a failing or slow table, and under concurrent calls: nothing is lost or done twice."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from components import give_up, settle_down

from nodekit import (
    Claim,
    ClaimLost,
    EmbeddedStore,
    Job,
    JobId,
    JobQuery,
    JobRequest,
    JobStatus,
    Location,
    Node,
    Outcome,
    Settlement,
    StoreFailed,
    Unfinished,
)
from nodekit.testing import JobStoreContract, make_job, succeeded, with_output
from nodekit_function import FunctionRunner
from nodekit_memory import MemoryTable
from nodekit_sqlite import SqliteStore

pytestmark = pytest.mark.anyio

CANCELLED = Outcome(JobStatus.CANCELLED)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


class FlakyTable:
    """A table in memory. Tests can make its calls fail or wait, before or after they did their work."""

    def __init__(self) -> None:
        self._table = MemoryTable()
        self.failing: set[str] = set()
        self.held: dict[str, anyio.Event] = {}
        self.begun: dict[str, anyio.Event] = {}
        self.turns = 0

    async def __aenter__(self) -> "FlakyTable":
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    def hold(self, name: str) -> tuple[anyio.Event, anyio.Event]:
        """Make the next calls wait: the first event is set when one has begun, setting the second lets them go on."""
        self.begun[name], self.held[name] = anyio.Event(), anyio.Event()
        return self.begun[name], self.held[name]

    async def _call(self, name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        for _ in range(self.turns):
            await anyio.lowlevel.checkpoint()
        result = None if name in self.failing else await call()
        if event := self.held.pop(name, None):
            self.begun[name].set()
            await event.wait()
        for _ in range(self.turns):
            await anyio.lowlevel.checkpoint()
        if name in self.failing:
            raise StoreFailed(f"{name}: the disk is full")
        return result

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        return await self._call("add", lambda: self._table.add(jobs))

    async def save(self, job: Job) -> None:
        await self._call("save", lambda: self._table.save(job))

    async def get(self, ids: Sequence[str], **asked: Any) -> list[Job]:
        return await self._call("get", lambda: self._table.get(ids, **asked))

    async def find(self, query: JobQuery) -> list[str]:
        return await self._call("find", lambda: self._table.find(query))

    async def delete(self, ids: Sequence[str]) -> int:
        return await self._call("delete", lambda: self._table.delete(ids))

    async def unfinished(self) -> Sequence[Unfinished]:
        return await self._table.unfinished()


@pytest.fixture
def table() -> FlakyTable:
    return FlakyTable()


@pytest.fixture
async def store(table: FlakyTable) -> AsyncIterator[EmbeddedStore]:
    async with EmbeddedStore(table) as store:
        yield store


async def claim(store: EmbeddedStore, job: Job | None = None) -> Claim:
    if job is not None:
        await store.add([job])
    with anyio.fail_after(60):
        [claim] = await store.claim(["echo"], 1)
    return claim


async def nothing_to_claim(store: EmbeddedStore) -> bool:
    return await give_up(lambda: store.claim(["echo"], 1))


def forget_fresh(store: EmbeddedStore) -> None:
    """Empty the store's recent jobs, so that a claim reads the job from the table."""
    for id in list(store._unfinished):
        store._fresh.pop(id)


class TestOverASlowTable(JobStoreContract):
    """Every call takes some turns of the event loop, so that calls overlap in other ways."""

    @pytest.fixture
    async def store(self, table: FlakyTable) -> AsyncIterator[EmbeddedStore]:
        table.turns = 3
        async with EmbeddedStore(table) as store:
            yield store


# -- the table fails -----------------------------------------------------------------------------


async def test_what_could_not_be_added_is_neither_queued_nor_counted(table: FlakyTable, store: EmbeddedStore) -> None:
    table.failing = {"add"}
    job = make_job()
    with pytest.raises(StoreFailed):
        await store.add([job])
    with pytest.raises(StoreFailed):
        await store.add_claimed(make_job(destination=Location.STREAM))
    assert (await store.pending()).total == 0
    assert await nothing_to_claim(store)
    table.failing.clear()
    assert await store.add([job]) == [job]
    assert (await claim(store)).job == job


async def test_a_claim_that_could_not_be_read_leaves_the_jobs_queued(table: FlakyTable, store: EmbeddedStore) -> None:
    jobs = [make_job() for _ in range(3)]
    await store.add(jobs)
    forget_fresh(store)
    table.failing = {"get"}
    for _ in range(3):
        with pytest.raises(StoreFailed):
            await store.claim(["echo"], 2)
    table.failing.clear()
    claims = await store.claim(["echo"], 3)
    assert [claim.job for claim in claims] == jobs


@pytest.mark.parametrize("finished", [False, True])
async def test_a_save_that_failed_can_be_tried_again(table: FlakyTable, store: EmbeddedStore, finished: bool) -> None:
    held = await claim(store, make_job())
    newer = succeeded(held.job) if finished else with_output(held.job)
    table.failing = {"save"}
    for _ in range(2):
        with pytest.raises(StoreFailed):
            await store.save(held, newer)
    assert held.job.steps == ()
    assert (await store.pending()).total == 1
    table.failing.clear()
    await store.save(held, newer)
    assert await store.get([newer.id]) == [newer]


@pytest.mark.parametrize("destination", [Location.OFFCHAIN, Location.STREAM])
async def test_a_release_that_failed_can_be_tried_again(
    table: FlakyTable, store: EmbeddedStore, destination: Location
) -> None:
    job = make_job(destination=destination)
    held = await (store.add_claimed(job) if destination is Location.STREAM else claim(store, job))
    table.failing = {"save"}
    with pytest.raises(StoreFailed):
        await store.release(held, with_output(job))
    assert await nothing_to_claim(store)
    assert (await store.pending()).total == 1
    table.failing.clear()
    await store.release(held, with_output(job))
    if destination is Location.STREAM:
        assert (await store.get([job.id]))[0].status is JobStatus.FAILED
        assert (await store.pending()).total == 0
    else:
        assert len((await claim(store)).job.steps) == 1


@pytest.mark.parametrize("call", ["get", "save"])
async def test_a_settlement_that_failed_leaves_a_queued_job_queued(
    table: FlakyTable, store: EmbeddedStore, call: str
) -> None:
    await store.add([job := make_job()])
    table.failing = {call}
    with pytest.raises(StoreFailed):
        await store.settle(job.id, CANCELLED, client=None)
    table.failing.clear()
    assert (await claim(store)).job == job
    assert (await store.pending()).total == 1


async def test_a_settlement_that_failed_leaves_a_claim_worth_something(table: FlakyTable, store: EmbeddedStore) -> None:
    held = await claim(store, make_job())
    table.failing = {"save"}
    with pytest.raises(StoreFailed):
        await store.settle(held.job.id, CANCELLED, client=None)
    table.failing.clear()
    assert not held.scope.cancel_called
    assert await nothing_to_claim(store)
    await store.save(held, done := succeeded(held.job))
    assert await store.get([done.id]) == [done]


async def test_a_save_during_a_settlement_that_fails_is_kept(table: FlakyTable, store: EmbeddedStore) -> None:
    held = await claim(store, make_job())
    begun, go_on = table.hold("save")
    table.failing = {"save"}

    async def settle() -> None:
        with pytest.raises(StoreFailed):
            await store.settle(held.job.id, CANCELLED, client=None)
        table.failing.clear()

    done = succeeded(held.job)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(settle)
            await begun.wait()
            tasks.start_soon(_save_until_kept, store, held, done)
            await anyio.wait_all_tasks_blocked()
            go_on.set()
    assert await store.get([done.id]) == [done]
    assert (await store.pending()).total == 0


async def _save_until_kept(store: EmbeddedStore, held: Claim, job: Job) -> None:
    while True:
        try:
            await store.save(held, job)
        except StoreFailed:
            await anyio.lowlevel.checkpoint()
        else:
            return


async def test_a_settlement_that_fails_while_the_job_is_being_claimed_makes_no_second_claim(
    table: FlakyTable, store: EmbeddedStore
) -> None:
    await store.add([job := make_job()])
    forget_fresh(store)
    begun, go_on = table.hold("get")
    claims: list[Claim] = []

    async def take() -> None:
        claims.extend(await store.claim(["echo"], 1))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take)
            await begun.wait()
            table.failing = {"save"}
            with pytest.raises(StoreFailed):
                await store.settle(job.id, CANCELLED, client=None)
            table.failing.clear()
            go_on.set()
    assert [held.job for held in claims] == [job]
    assert await nothing_to_claim(store)
    await store.save(claims[0], succeeded(job))


async def test_a_settlement_that_succeeds_while_the_job_is_being_claimed_leaves_no_claim(
    table: FlakyTable, store: EmbeddedStore
) -> None:
    await store.add([job := make_job()])
    forget_fresh(store)
    begun, go_on = table.hold("get")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.claim, ["echo"], 1)
        await begun.wait()
        await store.settle(job.id, CANCELLED, client=None)
        go_on.set()
        await anyio.wait_all_tasks_blocked()
        assert store._claims == {}
        tasks.cancel_scope.cancel()
    assert (await store.pending()).total == 0


async def test_settle_answers_the_job_as_it_is_when_it_finished_meanwhile(
    table: FlakyTable, store: EmbeddedStore
) -> None:
    held = await claim(store, make_job())
    done = succeeded(held.job)
    begun, go_on = table.hold("get")
    answers: list[Settlement | None] = []

    async def settle() -> None:
        answers.append(await store.settle(done.id, CANCELLED, client="alice"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(settle)
        await begun.wait()
        await store.save(held, done)
        go_on.set()
    assert answers == [Settlement(done, now=False)]


@pytest.mark.parametrize("saved", [False, True], ids=["step", "finish"])
async def test_a_settlement_during_a_save_comes_after_it(table: FlakyTable, store: EmbeddedStore, saved: bool) -> None:
    held = await claim(store, make_job())
    newer = succeeded(held.job) if saved else with_output(held.job, {"a": 1})
    begun, go_on = table.hold("save")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.save, held, newer)
        await begun.wait()
        tasks.start_soon(lambda: store.settle(newer.id, CANCELLED, client=None))
        await anyio.wait_all_tasks_blocked()
        go_on.set()
    [kept] = await store.get([newer.id])
    assert kept.status is (JobStatus.SUCCESS if saved else JobStatus.CANCELLED)
    assert kept.steps == newer.steps
    with pytest.raises(ClaimLost):
        await store.save(held, newer)


async def test_a_settlement_during_a_release_leaves_nothing_queued(table: FlakyTable, store: EmbeddedStore) -> None:
    held = await claim(store, make_job())
    begun, go_on = table.hold("save")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.release, held, with_output(held.job))
        await begun.wait()
        tasks.start_soon(lambda: store.settle(held.job.id, CANCELLED, client=None))
        await anyio.wait_all_tasks_blocked()
        go_on.set()
    [kept] = await store.get([held.job.id])
    assert kept.status is JobStatus.CANCELLED
    assert await nothing_to_claim(store)
    assert (await store.pending()).total == 0


async def test_delete_during_a_failure_keeps_what_is_there(table: FlakyTable, store: EmbeddedStore) -> None:
    held = await claim(store, make_job())
    await store.save(held, done := succeeded(held.job))
    table.failing = {"delete"}
    with pytest.raises(StoreFailed):
        await store.delete([done.id])
    table.failing.clear()
    assert await store.get([done.id]) == [done]


class ClosedTable(FlakyTable):
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


async def test_a_table_is_closed_with_its_store_once_what_was_begun_is_done() -> None:
    table = ClosedTable()
    begun, go_on = table.hold("add")
    async with anyio.create_task_group() as tasks:
        async with EmbeddedStore(table) as store:
            tasks.start_soon(store.add, [job := make_job()])
            await begun.wait()
            tasks.start_soon(_let_go, table, go_on)
    assert table.closed == [None]
    assert await table.get([job.id]) == [job]


async def _let_go(table: ClosedTable, go_on: anyio.Event) -> None:
    for _ in range(20):
        await anyio.lowlevel.checkpoint()
    assert not table.closed, "closed while it was written to"
    go_on.set()


async def test_a_table_is_closed_with_a_store_that_is_left_by_an_error() -> None:
    table = ClosedTable()
    with pytest.raises(KeyError):
        async with EmbeddedStore(table):
            raise KeyError
    assert table.closed == [KeyError]


# -- the caller goes away ------------------------------------------------------------------------


async def test_an_add_whose_caller_is_gone_is_finished(table: FlakyTable, store: EmbeddedStore) -> None:
    begun, go_on = table.hold("add")
    job = make_job()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.add, [job])
        await begun.wait()
        tasks.cancel_scope.cancel()
        go_on.set()
    assert (await claim(store)).job == job
    assert (await store.pending()).total == 1


async def test_of_the_calls_of_a_table_only_reads_and_delete_are_cancelled_with_whoever_asked() -> None:
    cancelled: set[str] = set()

    class Slow(FlakyTable):
        called, goes_on = anyio.Event(), anyio.Event()

        async def _call(self, name: str, call: Callable[[], Awaitable[Any]]) -> Any:
            self.called.set()
            try:
                await self.goes_on.wait()
            except BaseException:
                cancelled.add(name)
                raise
            return await call()

    table = Slow()
    table.goes_on.set()
    async with EmbeddedStore(table) as store:
        held = [await claim(store, make_job()) for _ in range(2)]
        [other] = await store.add([make_job("other")])
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: store.add([make_job()]),
            lambda: store.add_claimed(make_job(destination=Location.STREAM)),
            lambda: store.save(held[0], with_output(held[0].job)),
            lambda: store.release(held[1], with_output(held[1].job)),
            lambda: store.settle(other.id, CANCELLED, client=None),
            lambda: store.get([other.id]),
            lambda: store.find(JobQuery(limit=1)),
            lambda: store.delete([other.id]),
        ]
        for call in calls:
            table.called, table.goes_on = anyio.Event(), anyio.Event()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call)
                await table.called.wait()
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await settle_down()
                table.goes_on.set()
    assert cancelled == {"get", "find", "delete"}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_add_whose_asyncio_task_is_cancelled_loses_no_job_that_is_kept(
    table: FlakyTable, store: EmbeddedStore
) -> None:
    begun, go_on = table.hold("add")
    job = make_job()
    task = asyncio.ensure_future(store.add([job]))
    await begun.wait()
    task.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    if await store.get([job.id]):
        assert not await nothing_to_claim(store)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncios_own_cancel_leaves_no_job_that_nobody_runs_and_changes_no_end(tmp_path: Path) -> None:
    async def quick(data: Any) -> Any:
        await asyncio.sleep(0.001)
        return data

    runner = FunctionRunner()
    runner.container("quick")(quick)
    store = SqliteStore(tmp_path / "jobs.db")
    ends: dict[JobId, JobStatus] = {}
    async with Node(store=store, runners=[runner]) as node:
        for number in range(60):
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(node.submit(JobRequest.of("quick", data={})), number % 20 / 5000)
            job = await node.submit(JobRequest.of("quick", data={}))
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


class LosesAnswers(MemoryTable):
    """Keeps a change and then reports a failure, like a connection that breaks at the wrong moment."""

    broken = False

    async def save(self, job: Job) -> None:
        await super().save(job)
        if self.broken:
            raise StoreFailed("the connection was lost")


async def test_a_cancel_that_was_kept_is_one_even_if_the_answer_was_lost() -> None:
    table = LosesAnswers()
    async with EmbeddedStore(table) as store:
        queued, running = make_job(), make_job()
        await store.add([running])
        [claim] = await store.claim(["echo"], 1)
        await store.add([queued])
        table.broken = True
        for job in (queued, running):
            settled = await store.settle(job.id, Outcome(JobStatus.CANCELLED), client=None)
            assert settled
            assert settled.job.status is JobStatus.CANCELLED
        table.broken = False
        with pytest.raises(ClaimLost):
            await store.save(claim, succeeded(claim.job))
        assert (await store.pending()).total == 0


async def test_a_job_that_turns_out_to_be_finished_is_not_given_out() -> None:
    table = MemoryTable()
    async with EmbeddedStore(table) as store:
        await store.add([job := make_job(), other := make_job()])
        store._fresh.pop(job.id)
        await table.save(succeeded(job))
        assert [claim.job.id for claim in await store.claim(["echo"], 2)] == [other.id]
        assert (await store.pending()).total == 1
