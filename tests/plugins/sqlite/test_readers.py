"""The threads that read: groups take turns, reads that nobody waits for end, and no result stays in a thread."""

import gc
import sqlite3
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from components import settle_down, until
from msgspec.structs import replace

from nodekit import ContainerError, Job, JobQuery, JobStatus, Outcome
from nodekit.model.identity import works_for
from nodekit.testing import make_job, with_output
from nodekit_sqlite import SqliteTable, _query, _table
from nodekit_sqlite._readers import Turns
from nodekit_sqlite._thread import Call, EventWait

pytestmark = pytest.mark.anyio

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def table(tmp_path: Path) -> AsyncIterator[SqliteTable]:
    async with SqliteTable(tmp_path / "jobs.sqlite", synchronous="NORMAL") as table:
        yield table


def _call(group: str | None) -> Call[None]:
    return Call(lambda connection: None, EventWait(), group)


# -- turns -------------------------------------------------------------------------------------------


async def test_groups_take_turns_after_the_node_itself() -> None:
    turns = Turns(100)
    for group in ("a", "a", "a", "b", "b", "c", None):
        turns.put(_call(group))
    taken = [turns.take() for _ in range(7)]
    assert [call and call.group for call in taken] == [None, "a", "b", "c", "a", "b", "a"]


async def test_a_group_that_has_just_had_its_turn_comes_after_those_that_wait() -> None:
    turns = Turns(100)
    turns.put(_call("a"))
    assert (call := turns.take()) is not None
    assert call.group == "a"
    for group in ("b", "a", "b"):
        turns.put(_call(group))
    assert [call.group for call in (turns.take(), turns.take(), turns.take()) if call] == ["b", "a", "b"]


async def test_the_last_thread_is_never_for_a_group_that_has_the_others() -> None:
    turns = Turns(3)
    for _ in range(3):
        turns.put(_call("a"))
    assert turns.take()
    assert turns.take()
    assert turns.first() is None
    turns.put(_call("b"))
    assert (call := turns.take()) is not None
    assert call.group == "b"
    turns.done("a")
    assert (call := turns.take()) is not None
    assert call.group == "a"


async def test_a_call_that_was_given_up_is_not_taken() -> None:
    turns = Turns(3)
    gone, stays = _call("a"), _call("a")
    turns.put(gone)
    turns.put(stays)
    turns.abandon(gone)
    assert turns.take() is stays
    turns.abandon(stays)
    assert stays.abandoned
    turns.close()
    assert turns.take() is None


# -- reads whose callers have gone ------------------------------------------------------------------


@asynccontextmanager
async def all_busy(table: SqliteTable) -> AsyncIterator[None]:
    """Keep all reading threads busy, on behalf of two groups."""
    go_on, busy = threading.Event(), list[int]()

    def hold(connection: sqlite3.Connection) -> None:
        busy.append(1)
        go_on.wait(60)

    async def hold_for(group: str) -> None:
        works_for(group)
        await table._readers.call(hold)

    async with anyio.create_task_group() as tasks:
        for group in ("a", "a", "b"):
            tasks.start_soon(hold_for, group)
        try:
            await until(lambda: len(busy) == 3)
            yield
        finally:
            go_on.set()


async def test_searches_whose_callers_have_left_are_never_made(
    table: SqliteTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[JobQuery] = []
    find_slice = _query.find_slice

    def counted(connection: sqlite3.Connection, query: JobQuery) -> _query.Slice:
        made.append(query)
        return find_slice(connection, query)

    monkeypatch.setattr(_table, "find_slice", counted)
    async with all_busy(table), anyio.create_task_group() as tasks:
        for _ in range(40):
            tasks.start_soon(table.find, JobQuery(client="a", error="no"))
        await settle_down()
        tasks.cancel_scope.cancel()
    assert await table.find(JobQuery()) == []
    assert len(made) == 1


async def test_a_read_that_runs_for_a_caller_who_has_left_is_interrupted(table: SqliteTable) -> None:
    begun = threading.Event()

    def read(connection: sqlite3.Connection) -> None:
        begun.set()
        connection.execute(ENDLESS).fetchall()

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(table._readers.call, read)
        await until(begun.is_set)
        tasks.cancel_scope.cancel()
    with anyio.fail_after(60):
        assert await table.find(JobQuery()) == []


async def test_a_check_waits_for_no_other_read(table: SqliteTable) -> None:
    async with all_busy(table):
        with anyio.fail_after(60):
            await table.check()


async def test_reads_of_one_group_leave_room_for_those_of_another(table: SqliteTable) -> None:
    go_on = threading.Event()
    running: list[str] = []

    def hold(connection: sqlite3.Connection) -> None:
        running.append("a")
        go_on.wait(60)

    async def read_for(group: str, function: Callable[[sqlite3.Connection], object]) -> None:
        works_for(group)
        await table._readers.call(function)

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(read_for, "a", hold)
        await until(lambda: len(running) == 2)
        with anyio.fail_after(60):
            await read_for("b", lambda connection: running.append("b"))
        assert running == ["a", "a", "b"]
        go_on.set()


# -- what stays in a thread ---------------------------------------------------------------------------


class Large:
    """A result that can be seen to go."""


@pytest.mark.parametrize("of", ["_readers", "_writer"])
async def test_no_result_stays_in_a_thread_after_it_was_taken(table: SqliteTable, of: str) -> None:
    result = await getattr(table, of).call(lambda connection: Large())
    seen = weakref.ref(result)
    del result

    def is_gone() -> bool:
        gc.collect()
        return seen() is None

    await until(is_gone)


# -- pages --------------------------------------------------------------------------------------------


def failed(job: Job, number: int, text: str) -> Job:
    outcome = Outcome(JobStatus.FAILED, ContainerError(container="echo", error=text))
    return replace(with_output(job).finished(outcome, 17.0), finish_number=number)


@pytest.mark.parametrize("order", ["oldest", "newest", "finished"])
@pytest.mark.parametrize("client", [None, "alice"])
async def test_a_long_search_ends_early_with_a_cursor_and_goes_on_from_there(
    table: SqliteTable, monkeypatch: pytest.MonkeyPatch, order: str, client: str | None
) -> None:
    monkeypatch.setattr(_query, "SLICE_ROWS", 10)
    monkeypatch.setattr(_table, "PAGE_SLICES", 3)
    jobs = [make_job() for _ in range(100)]
    rare = {7, 31, 32, 97}
    await table.add([failed(job, n + 1, "rare" if n in rare else "common") for n, job in enumerate(jobs)])
    query = JobQuery(client=client, error="rare", order=order, limit=50)  # type: ignore[arg-type]
    whole = await table.find(query)
    assert sorted(whole) == [jobs[n].id for n in sorted(rare)]
    found, pages = list[str](), list[int]()
    while True:
        page = await table.page(query)
        found += page.ids
        pages.append(len(page.ids))
        if page.next is None:
            break
        query = replace(query, after=page.next)
    assert found == whole
    assert len(pages) == 4, "of 30 jobs that were looked at, and the rest"
    assert 0 in pages
