"""Files of earlier versions: they are upgraded after a copy was kept, and an operator can go back."""

import logging
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from every_job import every_job, write_jobs
from paths import ROOT

from nodekit import Job, JobQuery, StoreFailed
from nodekit.testing import make_job
from nodekit_sqlite import SqliteTable
from nodekit_sqlite import _new_file as new_file_module
from nodekit_sqlite import _table as table_module
from nodekit_sqlite._schema import APPLICATION_ID, MIGRATIONS
from nodekit_sqlite._upgrade import SPACE

pytestmark = pytest.mark.anyio

SCHEMA = len(MIGRATIONS)
FUNCTIONS = ("error_in", "finished_at", "size_in", "request_in", "data_in", "group_in")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite"


async def write_schema_6(path: Path, jobs: Sequence[Job]) -> None:
    """Write a file as the version before checksums did. Nothing is shared in it."""
    newer = path.with_name("newer.sqlite")
    async with SqliteTable(newer) as table:
        await write_jobs(table, jobs)
        await table.storage("keys").put("alice", b"secret")
    columns = "number, id, client, idempotency_key, status, open, error_container, error, finish_number, size, stored"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for name in FUNCTIONS:
            connection.create_function(name, -1, lambda *columns: None)  # there are no rows to call it for
        connection.executescript("".join(MIGRATIONS[:6]))
        connection.executescript(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 6")
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("ATTACH ? AS newer", (str(newer),))
        connection.execute(f"INSERT INTO jobs SELECT {columns}, state, request FROM newer.jobs")
        connection.execute(
            "INSERT INTO records SELECT place >> 24, place & 0xffffff, done, body, owner >> 24 FROM newer.records"
        )
        connection.execute("INSERT INTO plugin_records SELECT version, namespace, key, value FROM newer.plugin_records")
    newer.unlink()
    path.chmod(0o600)


def user_version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version) % 256


def names(path: Path) -> set[str]:
    return {one.name for one in path.parent.iterdir()}


async def content(path: Path) -> list[Job]:
    async with SqliteTable(path) as table:
        return await table.get(await table.find(JobQuery()))


async def test_an_upgrade_keeps_a_copy_says_so_and_loses_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    jobs = every_job()
    await write_schema_6(path, jobs)
    caplog.set_level(logging.INFO, "nodekit.store")
    assert await content(path) == jobs
    copy = path.with_name("jobs.sqlite.schema-6")
    assert names(path) == {path.name, copy.name}
    assert (user_version(copy), user_version(path), copy.stat().st_mode & 0o777) == (6, SCHEMA, 0o600)
    assert f"upgraded from schema 6 to {SCHEMA} ({len(jobs)} jobs); a copy for going back is {copy}" in caplog.text
    assert re.search(rf"has schema {SCHEMA} now: [\d.]+ s for {len(jobs)} jobs", caplog.text)
    async with SqliteTable(path) as table:
        record = await table.storage("keys").get("alice")
        assert record is not None
        assert record.value == b"secret"


async def test_a_new_file_and_one_of_this_version_are_not_copied(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        assert await content(path) == []
    assert names(path) == {path.name}
    assert "upgraded" not in caplog.text


async def test_the_copy_of_an_earlier_upgrade_is_never_overwritten_and_is_named(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nodekit.store")
    first, second = every_job(), every_job()
    await write_schema_6(path, first)
    await content(path)
    path.unlink()
    await write_schema_6(path, second)
    assert await content(path) == second
    earlier, later = (path.with_name(f"jobs.sqlite.schema-6{end}") for end in ("", "-2"))
    assert f"which may be deleted: {earlier}" in caplog.text
    for copy, jobs in ((earlier, first), (later, second)):
        with closing(sqlite3.connect(copy)) as connection:
            assert [id for (id,) in connection.execute("SELECT id FROM jobs ORDER BY id")] == [job.id for job in jobs]


KILLED = """
import sys, time
from pathlib import Path
import anyio
from nodekit_sqlite import SqliteTable, _new_file, _schema

def stop(*columns):
    print("in the middle", flush=True)
    time.sleep(600)

if sys.argv[2] == "migration":
    _schema.plugin_sum = stop
else:
    _new_file._sync = stop

async def main():
    async with SqliteTable(Path(sys.argv[1])):
        pass

anyio.run(main)
"""


@pytest.mark.parametrize("part", ["migration", "copy"])
async def test_an_upgrade_that_is_killed_is_made_again_with_one_copy(path: Path, part: str) -> None:
    jobs = every_job()
    await write_schema_6(path, jobs)
    for _ in range(2):
        await anyio.to_thread.run_sync(_kill_in, path, part)
        assert user_version(path) == 6
    assert await content(path) == jobs
    assert names(path) == {path.name, "jobs.sqlite.schema-6"}
    assert user_version(path.with_name("jobs.sqlite.schema-6")) == 6


def _kill_in(path: Path, part: str) -> None:
    command = [sys.executable, "-c", KILLED, str(path), part]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in the middle\n"
        process.send_signal(signal.SIGKILL)


async def test_without_enough_free_disk_nothing_is_begun_and_the_need_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write_schema_6(path, [make_job()])
    before = path.read_bytes()
    real = os.statvfs

    def little(folder: Path) -> object:
        found = real(folder)
        return os.statvfs_result((*found[:3], 1, 1, *found[5:]))

    with monkeypatch.context() as patched:
        patched.setattr(new_file_module.os, "statvfs", little)
        with pytest.raises(StoreFailed, match=r"needs \d+ bytes, and the disk of .* has \d+ bytes free"):
            await SqliteTable(path).__aenter__()
    assert (path.read_bytes(), names(path) - {"jobs.sqlite-wal", "jobs.sqlite-shm"}) == (before, {path.name})
    assert len(await content(path)) == 1


LIMITED = """
import resource, signal, sys
from pathlib import Path
import anyio
from nodekit import StoreFailed
from nodekit_sqlite import SqliteTable

async def main():
    try:
        async with SqliteTable(Path(sys.argv[1])):
            print("upgraded")
    except StoreFailed as error:
        print(error)

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
anyio.run(main)
"""


@pytest.mark.parametrize("part", ["copy", "migration"])
async def test_an_upgrade_for_which_the_disk_gets_full_leaves_the_file_as_it_was(path: Path, part: str) -> None:
    jobs = [make_job(data={"x": "y" * 5000}) for _ in range(40)]
    await write_schema_6(path, jobs)
    before = path.read_bytes()
    limit = len(before) // 2 if part == "copy" else len(before) + 4096
    done = await anyio.run_process([sys.executable, "-c", LIMITED, str(path), str(limit)])
    assert f"cannot {'keep a copy of' if part == 'copy' else 'open'} {path}" in done.stdout.decode()
    assert path.read_bytes() == before
    assert names(path) == {path.name} | ({"jobs.sqlite.schema-6"} if part == "migration" else set())
    assert await content(path) == jobs
    assert names(path) == {path.name, "jobs.sqlite.schema-6"}


@pytest.mark.parametrize("size", [300, 100_000])
async def test_an_upgrade_needs_no_more_disk_than_is_asked_for(
    path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    await write_schema_6(path, [make_job(data={"x": "y" * size}) for _ in range(2_000_000 // (size + 1000))])
    before, used = path.stat().st_size, list[int]()
    real = table_module.stamp

    def stamp(connection: sqlite3.Connection) -> bytes:
        used.append(sum(one.stat().st_size for one in path.parent.iterdir()))
        return real(connection)

    monkeypatch.setattr(table_module, "stamp", stamp)
    async with SqliteTable(path):
        pass
    assert used[0] - before <= SPACE * before, f"{used[0] / before:.2f} times the file"


async def test_a_newer_file_is_refused_with_the_way_back(path: Path) -> None:
    await content(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    with pytest.raises(StoreFailed, match=rf"newer nodekit \(schema {SCHEMA + 1}, known {SCHEMA}\); upgrade nodekit"):
        await SqliteTable(path).__aenter__()
    copy = path.with_name(f"jobs.sqlite.schema-{SCHEMA}")
    copy.write_bytes(b"")
    with pytest.raises(StoreFailed, match=re.escape(f"or go back: move {copy}")):
        await SqliteTable(path).__aenter__()


async def test_the_way_back_is_the_copy_and_the_next_upgrade_works_again(path: Path) -> None:
    jobs = every_job()
    await write_schema_6(path, jobs)
    async with SqliteTable(path) as table:
        await table.add([make_job()])
    path.with_name("jobs.sqlite.schema-6").replace(path)
    assert user_version(path) == 6
    with closing(sqlite3.connect(path)) as connection:  # as the earlier version reads it
        assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (len(jobs),)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert await content(path) == jobs


# -- the page ------------------------------------------------------------------------------------

PAGE = (ROOT / "docs" / "how-to" / "upgrade.md").read_text(encoding="utf-8")


async def steps(folder: Path, name: str) -> str:
    """Run the commands of a step of the page, as it has them; return what they print."""
    found = re.search(rf"^<!-- {name} -->\n```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found, name
    script = f'set -e\nnodekit() {{ "{sys.executable}" -m nodekit.cli "$@"; }}\n{found[1]}'
    done = await anyio.run_process(["sh", "-c", script], cwd=folder, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


async def test_the_steps_of_the_page_upgrade_roll_back_and_restore(path: Path) -> None:
    (path.parent / "node.toml").write_text('[store]\nuse = "sqlite"\npath = "jobs.sqlite"\n')
    jobs = every_job()
    async with SqliteTable(path) as table:
        await write_jobs(table, jobs)
    assert "nothing is damaged" in await steps(path.parent, "before")
    path.unlink()
    await write_schema_6(path, jobs)
    async with SqliteTable(path) as table:
        await table.add([later := make_job()])
    assert "nothing is damaged" in await steps(path.parent, "after")
    await steps(path.parent, "roll back")
    assert (user_version(path), later.id in (path.parent / "after-upgrade.jsonl").read_text()) == (6, True)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (len(jobs),)
    assert await content(path) == jobs, "upgraded once more"
    await steps(path.parent, "restore")
    assert await content(path) == jobs
    await steps(path.parent, "afterwards")
    assert "jobs.sqlite.schema-6" not in names(path)
