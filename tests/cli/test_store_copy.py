"""`nodekit store copy`: from the store of one node file to that of another, whatever kinds they are."""

import fcntl
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from every_job import every_job, retry_of, write_jobs
from msgspec.structs import replace
from pages import install
from paths import ROOT
from planted import installed, nodekit

from nodekit import EmbeddedStore, Job, JobQuery, JobStatus, JobTable, Outcome
from nodekit.testing import make_job, with_output
from nodekit.testing.shared_store.process import SharedServer
from nodekit_sqlite import SqliteTable

pytestmark = pytest.mark.anyio

KINDS = ("sqlite", "dbm")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the example's store of a plugin package, and node files of both kinds."""
    example = ROOT / "examples" / "nodekit-dbm"
    shutil.copytree(example / "nodekit_dbm", tmp_path / "nodekit_dbm", ignore=shutil.ignore_patterns("__pycache__"))
    install(tomllib.loads((example / "pyproject.toml").read_text())["project"], tmp_path)
    for side in ("from", "to"):
        for kind in KINDS:
            (tmp_path / f"{side}-{kind}.toml").write_text(f"[store]\nuse = '{kind}'\npath = '{side}.{kind}'\n")
    return tmp_path


async def command(folder: Path, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run a command in a thread: it has an event loop of its own."""
    return await anyio.to_thread.run_sync(partial(nodekit, folder, "store", *arguments))


def table(folder: Path, name: str) -> JobTable:
    side, kind = name.split("-")
    path = folder / f"{side}.{kind}"
    if kind == "sqlite":
        return SqliteTable(path)
    with installed(folder):
        from nodekit_dbm import DbmTable  # type: ignore[import-not-found]  # pyright: ignore

        made: JobTable = DbmTable(path)  # pyright: ignore
        return made


async def fill(folder: Path, name: str, jobs: Sequence[Job]) -> None:
    async with (opened := table(folder, name)):
        await write_jobs(opened, jobs)


async def content(folder: Path, name: str) -> list[Job]:
    async with (opened := table(folder, name)):
        return await opened.get(await opened.find(JobQuery()))


async def finished(folder: Path, name: str) -> list[str]:
    async with (opened := table(folder, name)):
        return await opened.find(JobQuery(order="finished"))


@pytest.mark.parametrize(("old", "new"), [("sqlite", "sqlite"), ("sqlite", "dbm"), ("dbm", "sqlite"), ("dbm", "dbm")])
async def test_all_jobs_are_there_afterwards_exactly_as_they_were(folder: Path, old: str, new: str) -> None:
    jobs = every_job()
    await fill(folder, f"from-{old}", jobs)
    before = await finished(folder, f"from-{old}")
    done = await command(folder, "copy", f"from-{old}.toml", f"to-{new}.toml")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"to-{new}.toml: {len(jobs)} jobs were copied and compared\n"
    assert await content(folder, f"to-{new}") == jobs == await content(folder, f"from-{old}")
    assert await finished(folder, f"to-{new}") == before
    again = await command(folder, "copy", f"from-{old}.toml", f"to-{new}.toml")
    assert again.stdout == f"to-{new}.toml: 0 jobs were copied and compared, {len(jobs)} were there already\n"
    back = await command(folder, "copy", f"to-{new}.toml", f"from-{old}.toml")
    assert (back.returncode, await content(folder, f"from-{old}")) == (0, jobs)


async def test_a_node_goes_on_with_what_was_copied(folder: Path) -> None:
    jobs = every_job()
    await fill(folder, "from-sqlite", jobs)
    await command(folder, "copy", "from-sqlite.toml", "to-dbm.toml")
    async with EmbeddedStore(table(folder, "to-dbm")) as store:
        claims = await store.claim(["echo", "reverse"], None, 10)
        due = {job.id for job in jobs if not job.status.finished and not job.not_before}
        streams = {job.id for job in jobs if job.request.destination.name == "STREAM"}
        assert {claim.job.id for claim in claims} == due - streams
        [twin] = await store.add([make_job(client="bob", idempotency_key="k1")])
        assert twin == jobs[1]


async def test_retries_share_payloads_in_the_new_file_as_in_the_old_one(folder: Path) -> None:
    old = with_output(make_job("echo", "reverse", data={"x": "y" * 100_000}), "z" * 100_000, due="reverse")
    old = replace(old.finished(Outcome(JobStatus.FAILED), 1.0), finish_number=1)
    await fill(folder, "from-sqlite", [old, *(retry_of(old) for _ in range(10))])
    assert (await command(folder, "copy", "from-sqlite.toml", "to-sqlite.toml")).returncode == 0
    assert (folder / "to.sqlite").stat().st_size <= (folder / "from.sqlite").stat().st_size < 500_000
    async with (opened := SqliteTable(folder / "to.sqlite")):
        assert (await opened.stored_bytes(["alice"]))["alice"] < 300_000


async def test_a_retry_with_a_null_whose_old_job_is_gone_is_copied(folder: Path) -> None:
    jobs = every_job()
    await fill(folder, "from-sqlite", jobs)
    async with (opened := SqliteTable(folder / "from.sqlite")):
        assert await opened.delete([jobs[8].id]) == 1
    assert (await command(folder, "copy", "from-sqlite.toml", "to-sqlite.toml")).returncode == 0
    assert await content(folder, "to-sqlite") == [job for job in jobs if job.id != jobs[8].id]


async def test_records_of_plugins_and_the_highest_finish_number_are_kept(folder: Path) -> None:
    [*jobs] = every_job()
    await fill(folder, "from-sqlite", jobs)
    last = replace(make_job().finished(Outcome(JobStatus.SUCCESS), 1.0), finish_number=4_000_000_000_000_000)
    async with (opened := SqliteTable(folder / "from.sqlite")):
        await opened.add([last])
        await opened.delete([last.id])
        for namespace in ("keys", "places"):
            for number in range(50):
                await opened.storage(namespace).put(f"{number:03}", b"x" * number)
    done = await command(folder, "copy", "from-sqlite.toml", "to-sqlite.toml")
    assert done.stdout == f"to-sqlite.toml: {len(jobs)} jobs were copied and compared; 100 records of plugins\n"
    async with (opened := SqliteTable(folder / "to.sqlite")):
        assert await opened.last_finish_number() == last.finish_number
        for namespace in ("keys", "places"):
            records = await opened.storage(namespace).scan()
            assert [(record.key, record.value) for record in records] == [(f"{n:03}", b"x" * n) for n in range(50)]
    again = await command(folder, "copy", "from-sqlite.toml", "to-sqlite.toml")
    assert again.stdout.endswith(f"{len(jobs)} were there already; 100 records of plugins\n")
    async with (opened := SqliteTable(folder / "to.sqlite")):
        await opened.storage("keys").put("007", b"changed")
    refused = await command(folder, "copy", "from-sqlite.toml", "to-sqlite.toml")
    assert (refused.returncode, "TO has a record '007' of the plugin 'keys'" in refused.stderr) == (1, True)
    refused = await command(folder, "copy", "from-sqlite.toml", "to-dbm.toml")
    assert refused.returncode == 1
    assert "TO keeps no records of plugins, and FROM has some of keys, places" in refused.stderr
    done = await command(folder, "copy", "from-sqlite.toml", "to-dbm.toml", "--without-records")
    assert (done.returncode, await content(folder, "to-dbm")) == (0, jobs)


KILLED = """
import sys, time
from nodekit.cli import main
from nodekit.cli.store import copying, reading

reading.MOST_BYTES = 20
real = copying._copy_jobs
batches = 0

async def stop(*given):
    global batches
    await real(*given)
    batches += 1
    if batches == 4:
        print("in the middle", flush=True)
        time.sleep(600)

copying._copy_jobs = stop
main(["store", "copy", *sys.argv[1:]])
"""


@pytest.mark.parametrize("new", KINDS)
async def test_a_copy_that_is_killed_goes_on_with_nothing_double(folder: Path, new: str) -> None:
    jobs = every_job()
    await fill(folder, "from-sqlite", jobs)
    await anyio.to_thread.run_sync(_kill, folder, "from-sqlite.toml", f"to-{new}.toml")
    there = len(await content(folder, f"to-{new}"))
    assert 0 < there < len(jobs)
    done = await command(folder, "copy", "from-sqlite.toml", f"to-{new}.toml")
    new_jobs = len(jobs) - there
    assert done.stdout == f"to-{new}.toml: {new_jobs} jobs were copied and compared, {there} were there already\n"
    assert await content(folder, f"to-{new}") == jobs


def _kill(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-c", KILLED, *arguments]
    environment = {"PYTHONPATH": f"{folder}", "PATH": ""}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in the middle\n"
        process.kill()


async def test_a_store_with_jobs_of_its_own_is_not_touched(folder: Path) -> None:
    jobs = every_job()
    await fill(folder, "from-sqlite", jobs)
    await fill(folder, "to-sqlite", [own := make_job()])
    done = await command(folder, "copy", "from-sqlite.toml", "to-sqlite.toml")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"TO has jobs of its own, such as {own.id}; name an empty store" in done.stderr
    assert await content(folder, "to-sqlite") == [own]
    await fill(folder, "to-dbm", [with_output(jobs[0])])
    done = await command(folder, "copy", "from-sqlite.toml", "to-dbm.toml")
    assert (done.returncode, f"job {jobs[0].id} is not the same in both stores" in done.stderr) == (1, True)
    async with (opened := SqliteTable(folder / "to.sqlite")):
        await opened.storage("keys").put("own", b"1")
    await fill(folder, "from-dbm", [own])
    done = await command(folder, "copy", "from-dbm.toml", "to-sqlite.toml")
    assert (done.returncode, "TO has records of the plugin 'keys' of its own" in done.stderr) == (1, True)


async def test_a_damaged_job_is_named_and_the_others_are_copied(folder: Path) -> None:
    jobs = every_job()
    await fill(folder, "from-sqlite", jobs)
    with closing(sqlite3.connect(folder / "from.sqlite", isolation_level=None)) as connection:
        connection.execute("UPDATE jobs SET finish_number = finish_number + 1 WHERE id = ?", (jobs[5].id,))
    done = await command(folder, "copy", "from-sqlite.toml", "to-dbm.toml")
    assert (done.returncode, f"job {jobs[5].id} is left out: it is damaged" in done.stderr) == (1, True)
    assert await content(folder, "to-dbm") == [job for job in jobs if job.id != jobs[5].id]


async def test_what_cannot_be_copied_is_refused_in_a_line(folder: Path) -> None:
    async def fails(code: int, *arguments: str) -> str:
        done = await command(folder, "copy", *arguments)
        assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (code, "", False)
        return done.stderr

    (folder / "memory.toml").write_text("[store]\nuse = 'memory'\n")
    assert "there is no file" in await fails(1, "from-sqlite.toml", "to-dbm.toml")
    await fill(folder, "from-sqlite", [job := make_job()])
    assert "the store `memory` keeps jobs as long as its node runs" in await fails(1, "memory.toml", "to-dbm.toml")
    assert "the store `memory` keeps jobs as long as its node runs" in await fails(1, "from-sqlite.toml", "memory.toml")
    assert "the same node file" in await fails(2, "from-sqlite.toml", "from-sqlite.toml")
    assert "is held by another node" in await fails(
        1, "from-sqlite.toml", shutil.copy(folder / "from-sqlite.toml", folder / "x.toml")
    )
    assert "cannot be read" in await fails(3, "from-sqlite.toml", "missing.toml")
    for name in ("from", "to"):
        with (folder / f"{name}.sqlite").open("ab") as held:
            fcntl.flock(held, fcntl.LOCK_EX)  # as a running node does
            assert "is held by another node" in await fails(1, "from-sqlite.toml", "to-sqlite.toml")
    assert (await command(folder, "copy", "from-sqlite.toml", "to-sqlite.toml")).returncode == 0
    assert await content(folder, "to-sqlite") == [job]


async def test_the_jobs_of_a_plugin_store_are_read_while_its_node_is_stopped(folder: Path) -> None:
    jobs = every_job()
    await fill(folder, "from-dbm", jobs)
    assert len((await command(folder, "jobs", "from-dbm.toml")).stdout.splitlines()) == len(jobs) + 1
    assert len((await command(folder, "export", "from-dbm.toml")).stdout.splitlines()) == len(jobs)
    assert (await command(folder, "check", "from-dbm.toml")).stdout.endswith("13 jobs were read; nothing is damaged\n")
    assert "jobs                 13" in (await command(folder, "stats", "from-dbm.toml")).stdout
    assert "makes no backups" in (await command(folder, "backup", "from-dbm.toml", "copy")).stderr
    with (folder / "from.dbm.dat").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "is held by another node" in (await command(folder, "jobs", "from-dbm.toml")).stderr


async def test_a_shared_store_on_such_a_file_has_what_was_copied_into_it(folder: Path) -> None:
    jobs = every_job()
    await fill(folder, "from-dbm", jobs)
    assert (await command(folder, "copy", "from-dbm.toml", "to-sqlite.toml")).returncode == 0
    with SharedServer(folder / "to.sqlite") as engine:
        async with engine.store() as store:
            found = await store.get([job.id for job in jobs])
            assert [job.id for job in found] == [job.id for job in jobs]
            assert await store.find(JobQuery(order="finished")) != []
