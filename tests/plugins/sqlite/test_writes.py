"""Writes that wait together: how few statements they take, and that none harms another."""

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from components import settle_down
from msgspec.structs import replace

from nodekit import ContainerError, Job, JobQuery, JobStatus, Outcome, StoreFailed
from nodekit.testing import make_attempt, make_job, succeeded, with_output
from nodekit_sqlite import SqliteTable
from nodekit_sqlite._many_rows import LARGE_BYTES, MOST_ROWS, ROWS, RowsStatement
from nodekit_sqlite._open_rows import OpenRow, OpenRows

pytestmark = pytest.mark.anyio

AT_ONCE = 32


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Traced(SqliteTable):
    """Records the statements of the writing thread."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, synchronous="NORMAL")
        self.statements: list[str] = []

    async def trace(self) -> None:
        await self._writer.call(lambda connection: connection.set_trace_callback(self._take))

    def _take(self, statement: str) -> None:
        self.statements.append(statement.split(maxsplit=3)[0].upper())

    async def together(self, writes: Sequence[Callable[[], Awaitable[Any]]]) -> list[Any]:
        """Make writes that wait together behind a slow one. Return their results or failures."""
        begun, go_on = threading.Event(), threading.Event()
        results: list[Any] = [None] * len(writes)

        def hold(connection: object) -> None:
            begun.set()
            assert go_on.wait(60)

        async def write(place: int) -> None:
            try:
                results[place] = await writes[place]()
            except StoreFailed as error:
                results[place] = error

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._writer.call, hold)
            while not begun.is_set():
                await anyio.sleep(0.001)
            for place in range(len(writes)):
                tasks.start_soon(write, place)
            await settle_down()
            self.statements.clear()
            go_on.set()
        if "COMMIT" in self.statements:  # of the slow one
            del self.statements[: self.statements.index("COMMIT") + 1]
        return results

    async def add_together(self, jobs: Sequence[Job]) -> list[Any]:
        return await self.together([lambda job=job: self.add([job]) for job in jobs])  # type: ignore[misc]

    async def save_together(self, jobs: Sequence[Job]) -> list[Any]:
        return await self.together([lambda job=job: self.save(job) for job in jobs])  # type: ignore[misc]


@pytest.fixture
async def table(tmp_path: Path) -> AsyncIterator[Traced]:
    async with Traced(tmp_path / "jobs.sqlite") as table:
        await table.add([make_job()])  # which looks for the highest number
        await table.trace()
        yield table


# -- how few statements ------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("number", [1, AT_ONCE])
async def test_jobs_that_wait_together_take_five_statements_for_each_write(
    table: Traced, steps: int, number: int
) -> None:
    write = ["BEGIN", "INSERT", "INSERT", "INSERT", "COMMIT"]  # jobs, their data, the bytes of their group
    jobs = [make_job(data={"n": n}) for n in range(number)]
    assert await table.add_together(jobs) == [[job] for job in jobs]
    assert table.statements == write
    for step in range(steps):
        jobs = [with_output(job) if step + 1 < steps else succeeded(job) for job in jobs]
        assert await table.save_together(jobs) == [None] * number
        assert table.statements == ["BEGIN", "INSERT", "UPDATE", "INSERT", "COMMIT"]
    assert await table.get([job.id for job in jobs]) == jobs


async def test_groups_of_clients_share_the_statement_that_counts_their_bytes(table: Traced) -> None:
    jobs = [make_job(client=f"client {n:02}") for n in range(AT_ONCE)]
    await table.add_together(jobs)
    assert table.statements.count("INSERT") == 3
    alone = await table.stored_bytes([jobs[0].group])
    assert await table.stored_bytes([job.group for job in jobs]) == {job.group: alone[jobs[0].group] for job in jobs}


async def test_a_job_that_an_earlier_run_has_stored_is_read_once_before_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    async with SqliteTable(path, synchronous="NORMAL") as table:
        await table.add([job := make_job()])
        await table.save(job := with_output(job))
    async with Traced(path) as again:
        await again.trace()
        await again.save_together([job := with_output(job)])
        assert again.statements == ["BEGIN", "SELECT", "INSERT", "UPDATE", "INSERT", "COMMIT"]
        await again.save_together([job := with_output(job)])
        assert again.statements == ["BEGIN", "INSERT", "UPDATE", "INSERT", "COMMIT"]
        assert await again.get([job.id]) == [job]
        assert await again.sizes([job.id]) == {job.id: job.payload_bytes}


# -- none harms another ------------------------------------------------------------------------------


async def test_any_number_of_jobs_is_written_whole(table: Traced) -> None:
    for number in (2, 3, MOST_ROWS - 1, MOST_ROWS, 3 * MOST_ROWS + 5):
        jobs = [make_job(data={"n": n}) for n in range(number)]
        assert await table.add(jobs) == jobs
        await table.save_together(jobs := [succeeded(job) for job in jobs])
        assert await table.get([job.id for job in jobs]) == jobs
        assert await table.sizes([job.id for job in jobs]) == {job.id: job.payload_bytes for job in jobs}


async def test_saves_of_steps_and_of_ends_that_wait_together_are_all_written(table: Traced) -> None:
    jobs = await table.add([make_job() for _ in range(8)])
    accepted, begun = jobs[0], [with_output(job) for job in jobs[1:]]
    await table.together([lambda job=job: table.save(job) for job in begun])  # type: ignore[misc]
    changed = [with_output(accepted), *map(with_output, begun[:4]), *map(succeeded, begun[4:])]
    ended = [job for job in changed if job.status.finished]
    assert await table.together([lambda job=job: table.save(job) for job in changed]) == [None] * 8  # type: ignore[misc]
    assert await table.get([job.id for job in jobs]) == changed
    assert await table.find(JobQuery(status={JobStatus.SUCCESS})) == [job.id for job in ended]
    assert await table.find(JobQuery(status={JobStatus.RUNNING})) == [job.id for job in changed[:5]]
    unfinished = [entry.id for entry in await table.unfinished()]
    assert [id for id in unfinished if id in {job.id for job in jobs}] == [job.id for job in changed[:5]]
    assert await table._readers.call(lambda c: c.execute("PRAGMA integrity_check").fetchall()) == [("ok",)]


async def test_a_text_that_is_empty_or_zero_is_stored_as_it_is(table: Traced) -> None:
    failed = [make_job() for _ in range(2)]
    await table.add(failed)
    ends = [
        replace(job, due=text).finished(Outcome(JobStatus.FAILED, ContainerError(container=text, error=text)), 2.0)
        for job, text in zip(failed, ("", "0"), strict=True)
    ]
    ends = [replace(job, finish_number=number) for number, job in enumerate(ends, 1)]
    for job in ends:
        await table.save(job)
    assert await table.get([job.id for job in ends]) == ends
    assert not table.damages.jobs


async def test_large_payloads_among_small_ones_are_those_of_their_jobs(table: Traced) -> None:
    sizes = 1, 2 * LARGE_BYTES, 1, LARGE_BYTES + 1, LARGE_BYTES - 1, 1
    jobs = [make_job(data={"text": str(n) * size}) for n, size in enumerate(sizes)]
    await table.add_together(jobs)
    await table.save_together(jobs := [with_output(job, job.id * size) for job, size in zip(jobs, sizes, strict=True)])
    assert await table.get([job.id for job in jobs]) == jobs


async def test_of_jobs_with_one_key_that_wait_together_the_first_is_stored(table: Traced) -> None:
    known = make_job(idempotency_key="known")
    await table.add([known])
    jobs = [make_job(idempotency_key=key) for key in ("a", "b", "a", "known", "b", "c")]
    kept = await table.add_together(jobs)
    a, b, c = jobs[0], jobs[1], jobs[5]
    assert kept == [[a], [b], [a], [known], [b], [c]]
    assert await table.find(JobQuery(idempotency_key="a", client=a.client)) == [a.id]
    await table.save_together([one := succeeded(a), other := with_output(c)])
    assert await table.get([a.id, c.id]) == [one, other]


async def test_a_retry_among_new_jobs_keeps_the_order_of_their_keys(table: Traced) -> None:
    old = succeeded(make_job())
    await table.add([old])
    retry = replace(make_job(idempotency_key="k"), retry_of=old.id, request=replace(old.request, idempotency_key="k"))
    before, behind = make_job(idempotency_key="other"), make_job(idempotency_key="k")
    again = replace(make_job(), request=replace(retry.request, idempotency_key=None)).retrying(retry, "failed")
    assert await table.add([before, retry, again, behind]) == [before, retry, again, retry]
    assert await table.get([before.id, retry.id, again.id, behind.id]) == [before, retry, again]


async def test_a_job_that_cannot_be_saved_harms_none_that_waits_with_it(table: Traced) -> None:
    await table.add(jobs := [make_job() for _ in range(5)])
    lost = jobs[2]
    await table._writer.call(lambda connection: connection.execute("DELETE FROM jobs WHERE id = ?", (lost.id,)).close())
    saved = [with_output(job) for job in jobs]
    failed = [error for error in await table.save_together(saved) if error is not None]
    assert [type(error) for error in failed] == [StoreFailed]
    assert lost.id in str(failed[0])
    rest = [job for job in saved if job.id != lost.id]
    assert await table.get([job.id for job in jobs]) == rest
    await table.save_together(ended := [succeeded(job) for job in rest])
    assert await table.get([job.id for job in rest]) == ended


async def test_a_retry_that_waits_with_a_write_that_fails_keeps_its_steps(table: Traced) -> None:
    old = with_output(with_output(make_job(), "one"), "two")
    await table.add([old := old.finished(Outcome(JobStatus.FAILED, None), 1.0)])
    retry = replace(make_job(), request=old.request).retrying(old, "failed")
    await table.together([lambda: table.save(make_job()), lambda: table.add([retry])])
    assert await table.get([retry.id]) == [retry]
    assert len(retry.steps) == 2


async def test_of_two_saves_of_a_job_that_wait_together_the_later_one_is_stored(table: Traced) -> None:
    await table.add([job := make_job(), other := make_job()])
    one = with_output(job, "one")
    await table.save_together([one, with_output(other), two := succeeded(one)])
    assert "ROLLBACK" not in table.statements
    assert await table.get([job.id]) == [two]
    assert await table.sizes([job.id]) == {job.id: two.payload_bytes}


async def test_a_write_that_is_rolled_back_is_not_built_upon(table: Traced) -> None:
    await table.add([job := make_job()])
    await table._writer.call(lambda connection: connection.execute("PRAGMA max_page_count = 60").close())
    with pytest.raises(StoreFailed, match="full"):
        await table.save(with_output(job, "x" * 1_000_000))
    await table._writer.call(lambda connection: connection.execute("PRAGMA max_page_count = 100000").close())
    await table.save(smaller := with_output(job, "y" * 1000))
    await table.save(failed := smaller.with_failure("echo", make_attempt(kind="timeout", failure="no reply")))
    assert await table.get([job.id]) == [failed]
    assert await table.sizes([job.id]) == {job.id: failed.payload_bytes}


async def test_callers_that_have_gone_leave_their_writes_and_disturb_no_others(table: Traced) -> None:
    jobs = [make_job() for _ in range(4)]

    async def give_up() -> None:
        with anyio.move_on_after(0):
            await table.add([jobs[0]])

    await table.together([give_up, *(lambda job=job: table.add([job]) for job in jobs[1:])])  # type: ignore[misc]
    assert await table.get([job.id for job in jobs[1:]]) == jobs[1:]


def test_it_works_on_trio_which_has_no_futures(tmp_path: Path) -> None:
    async def main() -> None:
        async with SqliteTable(tmp_path / "jobs.sqlite", synchronous="NORMAL") as table:
            await table.add([job := make_job()])
            await table.save(job := succeeded(job))
            assert await table.get([job.id]) == [job]

    anyio.run(main, backend="trio")


# -- parts -------------------------------------------------------------------------------------------


async def test_rows_are_written_in_pieces_of_few_sizes_and_large_ones_alone() -> None:
    statement = RowsStatement(f"INSERT INTO t VALUES {ROWS}", columns=2, large=1)
    rows = [(n, b"x") for n in range(2 * MOST_ROWS + 7)]
    pieces = [*statement._pieces([(-1, b"x" * LARGE_BYTES), *rows])]
    assert [len(piece) for piece in pieces] == [MOST_ROWS, MOST_ROWS, 4, 2, 1, 1]
    assert [row for piece in pieces[:-1] for row in piece] == rows
    assert [*statement._pieces([])] == []


def test_the_rows_that_were_written_last_are_remembered() -> None:
    rows = OpenRows(most=2)
    for number, id in enumerate("abac"):
        rows.put(id, OpenRow(number, "running", 0, 0, 0))
    assert [rows.get(id) for id in "abc"] == [OpenRow(2, "running", 0, 0, 0), None, OpenRow(3, "running", 0, 0, 0)]
    rows.end(committed=True)
    rows.drop("a")
    assert rows.get("a") is None
    rows.end(committed=False)
    assert rows.get("c") is None
