"""`nodekit prune` and `nodekit store`, on the stores of stopped and of running nodes."""

import sqlite3
import subprocess
from contextlib import closing
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from planted import nodekit
from served import nodekit as nodekit_process
from served import serve

from nodekit import JobQuery, JobStatus, Outcome
from nodekit.testing import make_job
from nodekit_sqlite import SqliteStore

pytestmark = pytest.mark.anyio

FILE = """
[node]
keep_finished_jobs = 1000000

[store]
use = "sqlite"
path = "jobs.db"

[[runners]]
use = "process"

[[runners.containers]]
id = "echo"
command = ["false"]
required = false

[[transports]]
use = "asgi"
bind = "127.0.0.1:0"
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(FILE)
    return path


async def command(file: Path, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run a command in a thread: it has an event loop of its own."""
    return await anyio.to_thread.run_sync(partial(nodekit, file.parent, *arguments))


async def fill(file: Path, count: int, *, size: int = 10) -> list[str]:
    """Add so many jobs, of which all but the last two finish. Return the ids of these two."""
    async with SqliteStore(file.parent / "jobs.db") as store:
        ids = [job.id for job in await store.add([make_job(data={"text": "x" * size}) for _ in range(count)])]
        for id in ids[:-2]:
            await store.settle(id, Outcome(JobStatus.SUCCESS), client=None)
    return ids[-2:]


async def jobs(file: Path) -> list[str]:
    async with SqliteStore(file.parent / "jobs.db") as store:
        return await store.find(JobQuery())


async def test_prune_deletes_old_finished_jobs_of_a_stopped_node(file: Path) -> None:
    unfinished = await fill(file, 12)
    await anyio.sleep(0.3)
    for age, option, text in (
        ("1h", (), "0 finished jobs deleted"),
        ("0.2s", ("--dry-run",), "10 finished jobs would be deleted"),
        ("0.2s", (), "10 finished jobs deleted"),
        ("0s", ("--dry-run",), "0 finished jobs would be deleted"),
    ):
        done = await command(file, "prune", file, "--older-than", age, *option)
        assert (done.returncode, done.stdout) == (0, f"{file}: {text}\n"), done.stderr
    assert await jobs(file) == unfinished


@pytest.mark.parametrize("name", ["audit.log", ""])
async def test_prune_is_in_the_audit_log(file: Path, name: str) -> None:
    await fill(file, 3)
    wanted = f'"{name}"' if name else "true"
    file.write_text(f"[log]\naudit = {wanted}\n{file.read_text()}")
    for option in ("--dry-run", "--"):
        done = await command(file, "prune", "--older-than", "0s", option, file)
        assert done.returncode == 0, done.stderr
    line = (file.parent / name).read_text() if name else done.stderr
    assert line.count("nodekit.audit: user ") == 1
    assert ": prune: 1 finished job deleted that finished more than 0 s ago\n" in line


async def test_prune_needs_no_variables_of_other_tables(file: Path) -> None:
    await fill(file, 3)
    text = file.read_text().replace('["false"]', '["${NOT_SET_ANYWHERE}"]')
    file.write_text(f"[log]\naudit = true\n{text}")
    done = await command(file, "prune", "--older-than", "0s", file)
    assert (done.returncode, done.stdout) == (0, f"{file}: 1 finished job deleted\n"), done.stderr
    assert "prune: 1 finished job deleted" in done.stderr


async def test_prune_works_beside_a_running_node(file: Path) -> None:
    unfinished = await fill(file, 402)
    async with serve(file) as (served, api):
        done = await command(file, "prune", file, "--older-than", "0s")
        assert (done.returncode, done.stdout) == (0, f"{file}: 400 finished jobs deleted\n"), done.stderr
        id = (await api.post("/api/jobs", {"containers": ["echo"], "data": {}})).json["id"]
        assert (await api.call("DELETE", f"/api/jobs/{id}")).status == 200
        assert "store" not in served.log.replace("the store has", "").replace("; store sqlite;", "")
        in_use = await command(file, "store", "compact", file)
        assert (in_use.returncode, "is held by another node" in in_use.stderr) == (1, True)
    assert await jobs(file) == [*unfinished, id]


async def test_two_prunes_at_once_delete_everything_between_them(file: Path) -> None:
    unfinished = await fill(file, 502)
    done: list[str] = []

    async def prune() -> None:
        run = partial(nodekit_process, "prune", file, "--older-than", "0s")
        done.append((await anyio.to_thread.run_sync(run)).stdout)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(prune)
        tasks.start_soon(prune)
    assert await jobs(file) == unfinished
    assert sum(int(text.split()[1]) for text in done) == 500


async def test_a_file_gives_the_space_of_deleted_jobs_back(file: Path) -> None:
    database = file.parent / "jobs.db"
    for count, size in ((302, 20_000), (12, 2_000_000)):
        await fill(file, count, size=size)
        full = database.stat().st_size
        assert (await command(file, "prune", file, "--older-than", "0s")).returncode == 0
        assert database.stat().st_size < full / 20 + 3 * size, "two unfinished jobs are left"


async def test_compact_gives_the_space_of_an_older_file_back_and_keeps_its_jobs(file: Path) -> None:
    database = file.parent / "jobs.db"
    with closing(sqlite3.connect(database)) as connection:  # as files were begun before they could shrink
        connection.execute("PRAGMA application_id = 0")
        connection.execute("CREATE TABLE earlier (id)")
        connection.execute("DROP TABLE earlier")
        connection.commit()
    unfinished = await fill(file, 302, size=20_000)
    full = database.stat().st_size
    assert (await command(file, "prune", file, "--older-than", "0s")).returncode == 0
    assert database.stat().st_size > full / 2
    done = await command(file, "store", "compact", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert database.stat().st_size < full / 20
    assert done.stdout == f"{file}: {full - database.stat().st_size} bytes were given back\n"
    assert await jobs(file) == unfinished
    await fill(file, 302, size=20_000)
    assert (await command(file, "prune", file, "--older-than", "0s")).returncode == 0
    assert database.stat().st_size < full / 20


async def test_what_cannot_be_done_is_one_line_that_says_why(file: Path) -> None:
    async def fails(code: int, *arguments: str | Path) -> str:
        done = await command(file, *arguments)
        assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (code, "", False)
        return done.stderr

    assert "expected a number with s, m, h, d or w" in await fails(2, "prune", file, "--older-than", "7")
    assert "Missing option '--older-than'" in await fails(2, "prune", file)
    assert "jobs.db" in await fails(1, "prune", file, "--older-than", "7d")
    assert not (file.parent / "jobs.db").exists()
    assert "there is no file" in await fails(1, "store", "compact", file)
    (file.parent / "jobs.db").write_text("no database, but longer than nothing")
    assert "file is not a database" in await fails(1, "prune", file, "--older-than", "7d")
    file.write_text(FILE.replace('use = "sqlite"\npath = "jobs.db"', 'use = "memory"'))
    assert "cannot be opened beside" in await fails(1, "prune", file, "--older-than", "7d")
    assert "nothing to compact" in await fails(1, "store", "compact", file)
    assert "no versions to migrate" in await fails(1, "store", "migrate", file)
    file.write_text(FILE.replace("jobs.db", "nowhere/jobs.db"))
    assert "store.path: there is no folder" in await fails(3, "prune", file, "--older-than", "7d")
