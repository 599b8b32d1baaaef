"""Damage that begins while a node works on its file, and damage that no job needs."""

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import anyio
import pytest
from components import functions, until_is
from damage import PAGE, ruin
from msgspec import Raw

from nodekit import Job, JobFinished, JobStatus, Node, StoreFailed, Unavailable
from nodekit.testing import make_job, make_node, make_request
from nodekit_sqlite import SqliteStore, SqliteTable
from nodekit_sqlite._damage import CURE, DAMAGED

pytestmark = pytest.mark.anyio

RESULT = Raw(b'"' + b"o" * 9000 + b'"')
FOREVER_SECONDS = 60


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


class Observer:
    def __init__(self) -> None:
        self.ended: list[Job] = []

    def nodekit_observe(self, event: object) -> None:
        if isinstance(event, JobFinished):
            self.ended.append(event.job)

    async def ids(self) -> Sequence[str]:
        return [job.id for job in self.ended]


async def statuses(node: Node, id: str) -> Sequence[JobStatus]:
    return [job.status async for job in node.follow(id)]


@pytest.mark.parametrize("part", ["all", "jobs", "records", "usage", "jobs_open", "jobs_finished"])
async def test_who_waits_gets_an_answer_if_a_result_meets_damage_of_the_file(path: Path, part: str) -> None:
    called, go, observer = anyio.Event(), anyio.Event(), Observer()

    async def slow(data: Raw) -> Raw:
        called.set()
        await go.wait()
        return RESULT

    found: list[Job] = []
    seen: list[JobStatus] = []
    runner, store = functions(slow=slow), SqliteStore(path, min_free_bytes=0)
    async with make_node(store=store, runners=[runner], plugins=[observer]) as node:
        job = await node.submit(make_request("slow"))

        async def wait() -> None:
            found.extend(await node.wait([job.id]))

        async def follow() -> None:
            seen.extend(await statuses(node, job.id))

        with anyio.fail_after(FOREVER_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                tasks.start_soon(follow)
                await called.wait()
                ruin(path, part)
                go.set()
        assert [(one.status, one.error and one.error.error) for one in found] == [(JobStatus.FAILED, DAMAGED)]
        assert seen[-1] is JobStatus.FAILED
        await until_is(observer.ids, [job.id])
        assert (await node.pending()).total == 0
        assert f"1 job is damaged in the store and failed ({job.id}); {CURE}" in (await node.health()).reasons


async def test_who_waits_learns_that_the_file_cannot_be_read_any_more(path: Path) -> None:
    called, go = anyio.Event(), anyio.Event()

    async def slow(data: Raw) -> Raw:
        called.set()
        await go.wait()
        return RESULT

    async with make_node(store=SqliteStore(path, min_free_bytes=0), runners=[functions(slow=slow)]) as node:
        job = await node.submit(make_request("slow"))

        async def wait() -> None:
            with pytest.raises(StoreFailed):
                await node.wait([job.id])

        with anyio.fail_after(FOREVER_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await called.wait()
                ruin(path, "all")
                with path.open("r+b") as file:
                    file.write(bytes(100))
                go.set()
        health = await node.health()
        assert not health.healthy
        assert any(reason.startswith("the store cannot keep results: ") for reason in health.reasons)


async def test_damage_that_new_jobs_meet_stays_among_the_reasons(path: Path) -> None:
    async with make_node(store=SqliteStore(path, min_free_bytes=0)) as node:
        await node.wait([(await node.submit(make_request("echo"))).id])
        ruin(path, "usage")
        with pytest.raises(Unavailable):
            await node.submit(make_request("echo"))
        assert f"a page that new jobs need of the store is damaged; {CURE}" in (await node.health()).reasons


async def test_damage_that_no_job_needs_is_reported_at_the_start(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with SqliteTable(path) as table:
        await table.add([make_job(data={"text": "x" * 300_000})])
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA auto_vacuum")
        connection.execute("DELETE FROM records")
        connection.execute("DELETE FROM jobs")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    trunk = int.from_bytes(path.read_bytes()[32:36], "big")
    assert trunk, "the file has free pages"
    with path.open("r+b") as file:
        file.seek((trunk - 1) * PAGE)
        file.write(os.urandom(PAGE))
    async with make_node(store=SqliteStore(path, min_free_bytes=0)) as node:
        health = await node.health()
    assert health.healthy
    assert f"a page of the store is damaged; {CURE}" in health.reasons
    assert "a page of the store is damaged: " in caplog.text


@pytest.mark.parametrize("part", ["jobs", "records", "usage", "jobs_of_client", "jobs_open", "sqlite_sequence"])
async def test_a_check_names_the_part_that_cannot_be_read_and_the_cure(path: Path, part: str) -> None:
    async with SqliteTable(path) as table:
        await table.add([make_job(data={"text": "x" * 500}) for _ in range(100)])
    ruin(path, part)
    found = await SqliteStore(path).verify()
    kind = "index" if part.startswith("jobs_") else "table"
    assert any(text.startswith(f"the {kind} `{part}` cannot be read: ") for text in found.problems)
    assert found.cure == CURE
