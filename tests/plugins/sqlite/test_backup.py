"""Backups and checks of the store `sqlite`, beside a node and without one, and views that write nothing."""

import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from shutil import rmtree
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio import from_thread
from every_job import every_job, retry_of, write_jobs

from nodekit import Job, JobQuery, StoreFailed
from nodekit.testing import make_job, with_output
from nodekit_sqlite import SqliteStore, SqliteTable
from nodekit_sqlite import _backup as backup_module
from nodekit_sqlite import _new_file as new_file_module

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (folder := tmp_path / "backups").mkdir()
    return folder / "copy.sqlite"


async def filled(path: Path) -> list[Job]:
    jobs = every_job()
    async with SqliteTable(path) as table:
        await write_jobs(table, jobs)
        await table.storage("keys").put("alice", b"secret")
    return [*jobs]


async def content(path: Path) -> list[Job]:
    async with SqliteTable(path) as table:
        return await table.get(await table.find(JobQuery()))


def everything_in(folder: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in sorted(folder.iterdir()) if one.is_file()}


# -- backups -------------------------------------------------------------------------------------


async def test_a_backup_of_a_stopped_node_has_everything_and_changes_nothing(path: Path, target: Path) -> None:
    jobs = await filled(path)
    before = everything_in(path.parent)
    assert await SqliteStore(path).backup(target) == target.stat().st_size
    assert everything_in(path.parent) == before
    assert everything_in(target.parent).keys() == {target.name}
    assert target.stat().st_mode & 0o777 == 0o600
    assert await content(target) == jobs


async def test_a_backup_beside_a_node_that_writes_is_of_one_moment(
    path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retries are written in one transaction with nothing but a reference to the record of the old job."""
    monkeypatch.setattr(new_file_module, "_PAGES", 5)
    monkeypatch.setattr(new_file_module, "_PAUSE", 0)
    written: list[Job] = []
    async with SqliteStore(path) as store:
        await store.add([make_job(data={"x": "y" * 3000}) for _ in range(300)])
        done = anyio.Event()

        async def write() -> None:
            while not done.is_set():
                old = with_output(make_job("echo", "reverse", data={"x": "y" * 5000}), {"n": len(written)})
                await store.table.add([old])
                await store.add([again := retry_of(old)])
                written.extend([old, again])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            await SqliteStore(path).backup(target)
            done.set()
    found = await content(target)
    copied = [job for job in written if job in found]
    assert copied == written[: len(copied)], "later jobs are there, and earlier ones are not"
    assert len(found) == 300 + len(copied)


async def test_a_file_that_exists_is_replaced_only_if_that_is_asked_for(path: Path, target: Path) -> None:
    jobs = await filled(path)
    target.write_text("the backup of yesterday")
    with pytest.raises(StoreFailed, match="exists already; name another file"):
        await SqliteStore(path).backup(target)
    assert everything_in(target.parent) == {target.name: b"the backup of yesterday"}
    await SqliteStore(path).backup(target, replace=True)
    assert await content(target) == jobs


async def test_a_file_that_appears_meanwhile_is_not_overwritten(
    path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(path)
    real = backup_module._problems

    def late(*given: object) -> list[str]:
        target.write_text("somebody else's")
        return real(*given)  # type: ignore[arg-type]  # pyright: ignore

    monkeypatch.setattr(backup_module, "_problems", late)
    with pytest.raises(StoreFailed, match="exists already"):
        await SqliteStore(path).backup(target)
    assert everything_in(target.parent) == {target.name: b"somebody else's"}


async def test_targets_that_would_harm_something_are_refused(path: Path, target: Path) -> None:
    await filled(path)
    store = SqliteStore(path)

    async def refused(to: Path) -> str:
        with pytest.raises(StoreFailed) as raised:
            await store.backup(to, replace=True)
        return str(raised.value)

    os.symlink(path, target)
    assert "is the store itself" in await refused(target)
    target.unlink()
    target.mkdir()
    assert "is no regular file" in await refused(target)
    assert "there is no folder" in await refused(target.parent / "missing" / "copy")
    assert "a file of the store itself" in await refused(path)
    path.with_name("jobs.sqlite-wal").touch()  # of a node that was killed
    assert "a file of the store itself" in await refused(path)
    assert "a file of the store itself" in await refused(path.with_name("jobs.sqlite-wal"))
    path.with_name("jobs.sqlite-wal").unlink()
    target = target.with_name("other.sqlite")
    async with SqliteTable(target):
        pass
    target.with_name("other.sqlite-wal").touch()
    assert "its newest jobs are in there; name another file" in await refused(target)
    target.with_name("other.sqlite-wal").unlink()
    os.link(path, target.with_name("second"))
    assert "is the store itself" in await refused(target.with_name("second"))
    target.with_name("second").unlink()
    with target.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "the store of a running node" in await refused(target)
    assert await content(path)


async def test_a_missing_file_an_empty_one_and_one_of_another_program_are_no_store(path: Path, target: Path) -> None:
    async def fails() -> str:
        with pytest.raises(StoreFailed) as raised:
            await SqliteStore(path).backup(target)
        return str(raised.value)

    assert "No such file" in await fails()
    path.touch()
    assert "is empty" in await fails()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE recipes (name)")
    assert "another program" in await fails()
    path.write_text("no database, but longer than nothing")
    assert "not a database" in await fails()
    assert everything_in(target.parent) == {}


LIMITED = """
import resource, signal, sys
from pathlib import Path
import anyio
from nodekit import StoreFailed
from nodekit_sqlite import SqliteStore

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
try:
    anyio.run(SqliteStore(Path(sys.argv[1])).backup, Path(sys.argv[2]))
except StoreFailed as error:
    print(error)
"""


async def test_where_it_cannot_be_written_nothing_is_left(path: Path, target: Path) -> None:
    await filled(path)
    done = await anyio.run_process([sys.executable, "-c", LIMITED, str(path), str(target)], stderr=None)
    assert f"cannot back up {path} to {target}: " in done.stdout.decode()
    assert everything_in(target.parent) == {}


async def test_without_enough_free_disk_the_need_is_named(
    path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(path)
    real = os.statvfs
    monkeypatch.setattr(
        new_file_module.os, "statvfs", lambda folder: os.statvfs_result((*real(folder)[:3], 1, 1, *real(folder)[5:]))
    )
    with pytest.raises(StoreFailed, match=r"needs \d+ bytes, and the disk of .* has \d+ bytes free"):
        await SqliteStore(path).backup(target)


KILLED = """
import sys, time
from pathlib import Path
import anyio
from nodekit_sqlite import SqliteStore, _backup

def stop(*given):
    print("in the middle", flush=True)
    time.sleep(600)

_backup._problems = stop
anyio.run(SqliteStore(Path(sys.argv[1])).backup, Path(sys.argv[2]))
"""


async def test_one_that_is_killed_leaves_nothing_under_the_name_and_the_next_one_works(
    path: Path, target: Path
) -> None:
    jobs = await filled(path)
    command = [sys.executable, "-c", KILLED, str(path), str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        await anyio.to_thread.run_sync(process.stdout.readline)
        with pytest.raises(StoreFailed, match="is being written by another process"):
            await SqliteStore(path).backup(target)
        process.kill()
    assert everything_in(target.parent).keys() == {f"{target.name}.partial"}
    await SqliteStore(path).backup(target)
    assert everything_in(target.parent).keys() == {target.name}
    assert await content(target) == jobs


INTERRUPTED = """
import signal, sys
from nodekit.cli import main
from nodekit_sqlite import _new_file

signal.signal(signal.SIGINT, signal.default_int_handler)
_new_file._PAGES = 1
real = _new_file.time.sleep
told = []

def sleep(seconds):
    if not told:
        told.append(print("in the middle", flush=True))
    real(0.2)

_new_file.time.sleep = sleep
main(["store", "backup", *sys.argv[1:]])
"""


async def test_ctrl_c_ends_a_backup_and_nothing_is_left(path: Path, target: Path) -> None:
    await filled(path)
    (node := path.with_name("node.toml")).write_text('[store]\nuse = "sqlite"\npath = "jobs.sqlite"\n')
    command = [sys.executable, "-c", INTERRUPTED, str(node), str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        await anyio.to_thread.run_sync(process.stdout.readline)
        process.send_signal(signal.SIGINT)
        _, error = await anyio.to_thread.run_sync(process.communicate)
    assert (process.returncode, error) == (1, b"\nAborted!\n")
    assert everything_in(target.parent) == {}


async def test_a_backup_that_is_cancelled_ends_soon(path: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await filled(path)
    real = backup_module.copy_database
    with anyio.CancelScope() as scope:

        def copy(*given: Any, **named: Any) -> None:
            from_thread.run_sync(scope.cancel)
            real(*given, **named)

        monkeypatch.setattr(backup_module, "copy_database", copy)
        await SqliteStore(path).backup(target)
    assert (scope.cancelled_caught, everything_in(target.parent)) == (True, {})


def damage(path: Path, job: Job) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(
            "UPDATE records SET body = body || 'x' WHERE place >> 24 = (SELECT number FROM jobs WHERE id = ?)",
            (job.id,),
        )


async def test_a_damaged_store_does_not_replace_a_backup_unless_that_is_asked_for(path: Path, target: Path) -> None:
    jobs = await filled(path)
    target.write_text("the backup of yesterday")
    damage(path, jobs[4])
    with pytest.raises(StoreFailed, match=f"the store is damaged, .*job {jobs[4].id} is damaged"):
        await SqliteStore(path).backup(target, replace=True)
    assert everything_in(target.parent) == {target.name: b"the backup of yesterday"}
    await SqliteStore(path).backup(target, replace=True, even_damaged=True)
    assert len(await content(target)) == len(jobs)


async def test_a_file_of_an_earlier_version_is_backed_up_as_it_is(path: Path, target: Path) -> None:
    await filled(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 6")
    await SqliteStore(path).backup(target)
    with closing(sqlite3.connect(target)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (6,)


# -- checks --------------------------------------------------------------------------------------


async def test_a_check_reads_all_and_finds_nothing_wrong(path: Path) -> None:
    jobs = await filled(path)
    before = everything_in(path.parent)
    found = await SqliteStore(path).verify()
    assert (found.jobs, found.problems, found.more) == (len(jobs), (), 0)
    assert everything_in(path.parent) == before
    async with SqliteStore(path) as store:
        await store.add([make_job()])
        assert await store.delete([job.id for job in jobs]), "retries still refer to records of one of them"
        left = await store.find(JobQuery())
        found = await SqliteStore(path).verify()
        assert (found.jobs, found.problems) == (len(left), ())


def _sql(text: str) -> Callable[[Path, list[Job]], None]:
    def run(path: Path, jobs: list[Job]) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            assert connection.execute(text, (jobs[4].id,) if "?" in text else ()).rowcount

    return run


_OF_JOB = "place >> 24 = (SELECT number FROM jobs WHERE id = ?)"
DAMAGE = {
    "data": (_sql(f"UPDATE records SET body = '[1]' WHERE {_OF_JOB} AND place & 0xffffff = 0"), "job ID is damaged"),
    "step": (_sql(f"UPDATE records SET done = 0 WHERE {_OF_JOB} AND place & 0xffffff = 1"), "job ID is damaged"),
    "missing step": (_sql(f"DELETE FROM records WHERE {_OF_JOB} AND place & 0xffffff = 1"), "job ID is damaged"),
    "state": (_sql("UPDATE jobs SET finish_number = finish_number + 1 WHERE id = ?"), "job ID is damaged"),
    "request": (_sql("UPDATE jobs SET request = request || ' ' WHERE id = ?"), "job ID is damaged"),
    "reference": (_sql("UPDATE records SET owner = owner + (1 << 40) WHERE owner IS NOT NULL"), "is damaged: the"),
    "job": (_sql("DELETE FROM jobs WHERE id = ?"), "there are records of a job number 5, which is missing"),
    "plugin": (_sql("UPDATE plugin_records SET value = 'guess'"), "the record 'alice' of the plugin 'keys' is damaged"),
}


@pytest.mark.parametrize("part", DAMAGE)
async def test_a_check_names_what_is_damaged(path: Path, part: str) -> None:
    jobs = await filled(path)
    harm, text = DAMAGE[part]
    harm(path, jobs)
    before = everything_in(path.parent)
    problems = (await SqliteStore(path).verify()).problems
    assert any(text.replace("ID", jobs[4].id) in problem for problem in problems), problems
    assert everything_in(path.parent) == before


async def test_a_check_finds_an_index_that_does_not_fit_and_a_page_that_is_lost(path: Path) -> None:
    await filled(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, 'WHERE open = 1', '') WHERE name = 'jobs_open'")
    assert any("jobs_open" in text for text in (await SqliteStore(path).verify()).problems)
    path.unlink()
    jobs = await filled(path)
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'records'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xaa" * size)
    found = await SqliteStore(path).verify()
    assert found.jobs == len(jobs)
    assert all(any(job.id in text for text in found.problems) for job in jobs if job.request.data != b"{}")


# -- reading without writing ---------------------------------------------------------------------


async def test_a_view_of_a_stopped_node_writes_nothing_until_it_deletes(path: Path) -> None:
    jobs = await filled(path)
    before = everything_in(path.parent)
    async with SqliteStore(path).view() as view:
        assert await view.get(await view.find(JobQuery())) == jobs
        assert everything_in(path.parent) == before
        assert await view.delete([job.id for job in jobs]) == len([job for job in jobs if job.status.finished])
        assert await view.find(JobQuery()) == [job.id for job in jobs if not job.status.finished]
    assert everything_in(path.parent).keys() == before.keys()


async def test_a_view_that_was_opened_before_the_node_sees_what_it_writes(path: Path) -> None:
    jobs = await filled(path)
    async with SqliteStore(path).view() as view:
        assert len(await view.find(JobQuery())) == len(jobs)
        async with SqliteTable(path) as table:
            await table.add([new := make_job()])
            assert await view.get([new.id]) == [new]
    assert await content(path) == [*jobs, new]


async def test_a_node_that_was_killed_can_be_read_with_what_is_in_its_log(path: Path) -> None:
    code = f"""
import anyio, os
from pathlib import Path
from nodekit.testing import make_job
from nodekit_sqlite import SqliteTable
async def main():
    async with SqliteTable(Path({str(path)!r})) as table:
        await table.add([make_job(data={{"n": n}}) for n in range(20)])
        os.kill(os.getpid(), 9)
anyio.run(main)
"""
    await anyio.run_process([sys.executable, "-c", code], check=False)
    assert path.with_name("jobs.sqlite-wal").stat().st_size
    before = path.read_bytes(), path.with_name("jobs.sqlite-wal").read_bytes()
    async with SqliteStore(path).view() as view:
        assert len(await view.find(JobQuery())) == 20
    assert (await SqliteStore(path).verify()).jobs == 20
    assert (path.read_bytes(), path.with_name("jobs.sqlite-wal").read_bytes()) == before


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    rmtree(folder)


AS_NOBODY = """
import os, sys
import urllib.parse  # Python imports it late, and this user may be unable to read it
from pathlib import Path
import anyio
from nodekit import JobQuery, StoreFailed
from nodekit_sqlite import SqliteStore

async def main():
    os.setgid(65534)
    os.setuid(65534)
    store = SqliteStore(Path(sys.argv[1]))
    try:
        async with store.view() as view:
            print(len(await view.get(await view.find(JobQuery()))))
        found = await store.verify()
        print(found.jobs, *found.problems)
    except StoreFailed as error:
        print(error)

anyio.run(main)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("killed", [False, True])
async def test_another_user_who_may_only_read_can_and_leaves_nothing_behind(open_folder: Path, killed: bool) -> None:
    path = open_folder / "jobs.sqlite"
    jobs = await filled(path)
    if killed:  # as `kill -9` leaves the files
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version = 7").close()
            logs = everything_in(open_folder)
        for name, data in logs.items():
            (open_folder / name).write_bytes(data)
    for file in open_folder.iterdir():
        file.chmod(0o644)
    before = everything_in(open_folder)
    assert ("jobs.sqlite-wal" in before) is killed

    async def read() -> str:
        return (await anyio.run_process([sys.executable, "-c", AS_NOBODY, str(path)], stderr=None)).stdout.decode()

    assert await read() == f"{len(jobs)}\n{len(jobs)}\n"
    assert everything_in(open_folder) == before
    path.chmod(0o600)
    assert "this user may not read it" in await read()
