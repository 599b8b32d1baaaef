"""The disk: retries share payloads, bytes are counted by group, and an almost full disk takes no new jobs."""

import os
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from components import echo, functions, until
from msgspec.structs import replace

from nodekit import (
    ClientLimits,
    CompositionError,
    ContainerError,
    Job,
    JobStatus,
    Node,
    NodeLimits,
    Outcome,
    TooMuchStored,
    Unavailable,
    load_node,
)
from nodekit.testing import make_attempt, make_job, make_node, make_request, succeeded, with_output
from nodekit_sqlite import SqliteStore, SqliteTable

pytestmark = pytest.mark.anyio

FAILED = Outcome(JobStatus.FAILED, ContainerError(container="echo", error="no"))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite"


@pytest.fixture
async def table(path: Path) -> AsyncIterator[SqliteTable]:
    async with SqliteTable(path, synchronous="NORMAL") as table:
        yield table


def large_job(steps: int, size: int, **fields: Any) -> Job:
    """Make a job that has failed after some large outputs."""
    job = make_job("echo", data="x" * size, **fields)
    for _ in range(steps):
        job = with_output(job, "y" * size)
    error = ContainerError(container="echo", error="no", kind="status")
    return job.with_result(error, make_attempt(kind="status", failure="no")).finished(Outcome(JobStatus.FAILED), 17.0)


def retry_of(old: Job) -> Job:
    request = old.request.again(address=None, priority=None, idempotency_key=None, body_digest=None)
    return replace(replace(make_job(), request=request).retrying(old, "failed"), due="echo")


async def pages(table: SqliteTable) -> int:
    return await table._writer.call(lambda c: int(c.execute("PRAGMA page_count").fetchone()[0]))


# -- retries -----------------------------------------------------------------------------------------


async def test_retries_of_a_large_job_write_no_payload_again(table: SqliteTable) -> None:
    old = large_job(20, 100_000)
    await table.add([old])
    before = await pages(table)
    newest = old
    for _ in range(10):
        newest = retry_of(newest)
        await table.add([newest])
        assert await table.get([newest.id]) == [newest]
        await table.save(newest := newest.finished(FAILED, 18.0))
    assert (await pages(table) - before) * 4096 < 200_000, "ten rows, and not twenty megabytes"


async def test_a_node_that_retries_a_large_job_writes_no_payload_again(path: Path) -> None:
    store = SqliteStore(path, synchronous="NORMAL", min_free_bytes=0)
    async with make_node(store=store) as node:
        request = make_request(*["echo"] * 20, "fail", data={"large": "x" * 100_000})
        [old] = await node.wait([(await node.submit(request)).id])
        assert old.status is JobStatus.FAILED
        before = await pages(store._sqlite)
        for _ in range(10):
            again = await node.retry(old.id)
            assert again is not None
            [old] = await node.wait([again.id])
            assert len(old.steps) == 21
        assert (await pages(store._sqlite) - before) * 4096 < 400_000


async def test_shared_payloads_go_with_the_last_job_that_has_them(path: Path, table: SqliteTable) -> None:
    old = large_job(3, 100_000)
    first = retry_of(old)
    second = retry_of(first)
    for job in (old, first, second):
        await table.add([job])
        await table.save(job.finished(FAILED, 18.0))
    for gone, records in ((old, 4 + 4 + 4), (first, 4 + 4), (second, 0)):
        assert await table.delete([gone.id]) == 1
        assert await rows(table, "records") == records
    assert await rows(table, "leftovers") == 0


async def test_deleted_together_nothing_is_left(table: SqliteTable) -> None:
    old = large_job(3, 1000)
    again = retry_of(old)
    await table.add([old, again])
    await table.save(again.finished(FAILED, 18.0))
    assert await table.delete([old.id, again.id]) == 2
    assert [await rows(table, name) for name in ("jobs", "records", "leftovers", "usage")] == [0, 0, 0, 0]


async def test_a_number_whose_payloads_are_still_shared_is_not_used_again(table: SqliteTable) -> None:
    old = large_job(1, 1000)
    again = retry_of(old)
    await table.add([again, old])  # not shared: it was not there yet
    shared = retry_of(old)
    await table.add([shared])
    await table.save(shared.finished(FAILED, 18.0))
    await table.delete([old.id])
    await table.add([other := make_job(data="other")])
    assert await table.get([shared.id, other.id]) == [shared.finished(FAILED, 18.0), other]


async def rows(table: SqliteTable, name: str) -> int:
    return await table._writer.call(lambda c: int(c.execute(f"SELECT count(*) FROM {name}").fetchone()[0]))


# -- bytes by group ----------------------------------------------------------------------------------


async def stored(table: SqliteTable, *groups: str) -> Sequence[int]:
    found = await table.stored_bytes(groups)
    return [found[group] for group in groups]


def counted(path: Path) -> Mapping[str, int]:
    """Count what a file has, job by job."""
    with closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT client, sum(stored) FROM jobs GROUP BY client"))


async def test_bytes_are_counted_for_each_group_until_its_jobs_are_deleted(path: Path) -> None:
    async with SqliteTable(path, synchronous="NORMAL") as table:
        assert await stored(table, "alice", "bob") == [0, 0]
        jobs = [make_job(data="x" * 10_000, client=client) for client in ("alice", "bob", "alice")]
        await table.add(jobs)
        await table.add(jobs)  # known jobs count once
        alice, bob = await stored(table, "alice", "bob")
        assert 20_000 < alice < 23_000
        assert 10_000 < bob < 11_500
        job = with_output(jobs[0], "y" * 50_000)
        for _ in range(2):  # the same snapshot counts once
            await table.save(job)
        await table.save(job := job.finished(FAILED, 17.0))
        assert alice + 50_000 < (grown := await stored(table, "alice"))[0] < alice + 51_500
        assert counted(path) == {"alice": grown[0], "bob": bob}
        await table.delete([job.id, jobs[1].id])
        assert (await stored(table, "bob"))[0] == bob, "its job is not finished"
    async with SqliteTable(path, synchronous="NORMAL") as table:
        assert counted(path) == dict(zip(("alice", "bob"), await stored(table, "alice", "bob"), strict=True))


async def test_what_a_retry_shares_counts_once_and_as_long_as_it_is_there(path: Path, table: SqliteTable) -> None:
    old = large_job(2, 100_000)
    await table.add([old])
    [alone] = await stored(table, "alice")
    again = retry_of(old)
    await table.add([again])
    await table.save(again.finished(FAILED, 18.0))
    assert alone < (await stored(table, "alice"))[0] < alone + 2_000
    await table.delete([old.id])
    assert 300_000 < (await stored(table, "alice"))[0] < alone + 2_000
    await table.delete([again.id])
    assert await stored(table, "alice") == [0]
    assert await rows(table, "usage") == 0


async def test_a_write_that_fails_counts_nothing(table: SqliteTable) -> None:
    await table._writer.call(lambda c: c.execute("PRAGMA max_page_count = 60").close())
    with pytest.raises(Exception, match="full"):
        await table.add([make_job(data="x" * 1_000_000)])
    assert await stored(table, "alice") == [0]
    await table.add([make_job()])
    assert 0 < (await stored(table, "alice"))[0] < 2_000


async def test_what_another_process_deletes_is_seen_after_a_while(
    path: Path, table: SqliteTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    await table.add([job := succeeded(make_job())])
    assert (await stored(table, "alice"))[0] > 0
    async with SqliteTable(path, owned=False) as view:
        await view.delete([job.id])
    monkeypatch.setattr("nodekit_sqlite._table._KNOWN_SECONDS", 0.0)
    assert await stored(table, "alice") == [0]


async def test_a_group_that_has_stored_too_much_is_refused_until_its_jobs_are_deleted(path: Path) -> None:
    limits = NodeLimits(
        each_client=ClientLimits(max_stored_bytes=100_000), clients={"rich": ClientLimits(max_stored_bytes=10_000_000)}
    )
    async with make_node(store=SqliteStore(path, min_free_bytes=0), limits=limits) as node:
        large = [make_request(data="x" * 40_000, client=client) for client in ("alice", "bob", "rich")]
        ids = [(await node.submit(large[0])).id]
        await node.wait(ids)
        with pytest.raises(TooMuchStored, match="of at most 100000; wait until jobs of yours are deleted"):
            await node.submit(large[0])
        answers = await node.submit_many([large[1]] * 5)
        assert [type(answer) for answer in answers] == [Job, Job, *[TooMuchStored] * 3]
        assert all(isinstance(answer, Job) for answer in await node.submit_many([large[2]] * 5))
        assert await node.delete(ids) == 1
        await node.submit(large[0])


async def test_at_its_limit_a_group_can_neither_retry_nor_stream(path: Path) -> None:
    limits = NodeLimits(each_client=ClientLimits(max_stored_bytes=50_000))
    async with make_node(store=SqliteStore(path, min_free_bytes=0), limits=limits) as node:
        [old] = await node.wait([(await node.submit(make_request("echo", "fail", data="x" * 40_000))).id])
        assert old.status is JobStatus.FAILED
        with pytest.raises(TooMuchStored):
            await node.retry(old.id)
        with pytest.raises(TooMuchStored):
            async with node.stream(make_request()):
                pass


async def test_a_store_in_memory_has_no_such_limit() -> None:
    async with make_node(limits=NodeLimits(each_client=ClientLimits(max_stored_bytes=1))) as node:
        await node.submit(make_request(data="x" * 1000))


# -- an almost full disk ------------------------------------------------------------------------------


class Disk:
    """The free space of every file system."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free = 1 << 40
        monkeypatch.setattr("nodekit_sqlite._disk.LOOK_SECONDS", 0.0)
        monkeypatch.setattr(
            os, "statvfs", lambda path: SimpleNamespace(f_bavail=self.free // 4096, f_frsize=4096, f_flag=0)
        )


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


async def refused(node: Node) -> str:
    with pytest.raises(Unavailable) as raised:
        await node.submit(make_request())
    assert raised.value.retry_after_seconds > 0
    return raised.value.reason


async def test_before_the_disk_is_full_no_new_jobs_are_taken_and_running_ones_go_on(path: Path, disk: Disk) -> None:
    go_on = anyio.Event()

    async def wait(data: Any) -> Any:
        await go_on.wait()
        return data

    async with make_node(store=SqliteStore(path), runners=[functions(wait=wait, echo=echo)]) as node:
        job = await node.submit(make_request("wait", "echo"))
        await until(lambda: node.in_flight == 1)
        assert (await node.health()).healthy
        disk.free = (256 << 20) - 4096
        assert await refused(node) == "the disk of the node is almost full"
        with pytest.raises(Unavailable, match="almost full"):
            async with node.stream(make_request()):
                pass
        health = await node.health()
        assert not health.healthy
        assert "268431360 bytes free, and min_free_bytes is 268435456" in health.reasons[0]
        go_on.set()
        [ended] = await node.wait([job.id])
        assert ended.status is JobStatus.SUCCESS
        disk.free = 256 << 20
        assert await refused(node), "a little more is not enough: otherwise it would flicker"
        disk.free = 288 << 20
        assert (await node.health()).healthy
        await node.submit(make_request())


async def test_without_a_minimum_jobs_are_taken_until_the_disk_is_full(path: Path, disk: Disk) -> None:
    disk.free = 0
    async with make_node(store=SqliteStore(path, min_free_bytes=0)) as node:
        await node.submit(make_request())
        assert (await node.health()).healthy


async def test_the_minimum_is_a_setting_of_the_store(tmp_path: Path, disk: Disk) -> None:
    file = tmp_path / "node.toml"
    text = '[store]\nuse = "sqlite"\npath = "jobs.sqlite"\nmin_free_bytes = {}\n'
    file.write_text(text.format(-1))
    with pytest.raises(CompositionError, match=r"store\.min_free_bytes"):
        load_node(file)
    disk.free = 100
    file.write_text(text.format(1000))
    async with load_node(file) as node:
        assert "min_free_bytes is 1000" in (await node.health()).reasons[0]
