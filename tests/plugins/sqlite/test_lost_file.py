"""The file of the store `sqlite` that is deleted, moved, replaced or opened in other ways under a running node."""

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from components import until
from http_api import both_servers
from served import serve

from nodekit import JobQuery, JobStatus, Node, StoreFailed, StoreInUse, Unavailable
from nodekit.testing import make_job, make_node, make_request
from nodekit_sqlite import SqliteStore, SqliteTable

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder / "jobs.db"


def beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def stored(path: Path) -> set[str]:
    """Return the ids of the jobs in a file, as another process reads it: in this one, it would take away locks."""
    read = "import sqlite3, sys; print(*(id for (id,) in sqlite3.connect(sys.argv[1]).execute('SELECT id FROM jobs')))"
    return set(
        subprocess.run([sys.executable, "-c", read, path], capture_output=True, text=True, check=True).stdout.split()
    )


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[tuple[Node, set[str]]]:
    """Run a node that has accepted jobs."""
    async with make_node(store=SqliteStore(path, min_free_bytes=0)) as node:
        ids = {(await node.submit(make_request())).id for _ in range(5)}
        await node.wait(list(ids))
        yield node, ids


async def refused(node: Node, *reasons: str) -> None:
    """Check that the node takes nothing, and says why."""
    with pytest.raises(Unavailable, match="cannot keep jobs"):
        await node.submit(make_request())
    for _ in range(2):
        health = await node.health()
        assert not health.healthy
        for reason in reasons:
            assert reason in " ".join(health.reasons)


async def recovered(node: Node) -> None:
    """Wait until the node is healthy: a result that could not be stored is stored with the next attempt."""
    with anyio.fail_after(60):
        while not (await node.health()).healthy:
            await anyio.sleep(0.02)


# -- what happens to the file --------------------------------------------------------------------


def delete(path: Path) -> None:
    for file in path.parent.iterdir():
        file.unlink()


def delete_database(path: Path) -> None:
    path.unlink()


def replace_database(path: Path) -> None:
    other = path.with_name("other.db")
    other.write_bytes(b"")
    other.replace(path)


@pytest.mark.parametrize("lose", [delete, delete_database, replace_database])
async def test_jobs_of_a_deleted_file_are_saved_and_nothing_is_accepted(
    path: Path, lose: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    saved = beside(path, ".saved")
    async with running(path) as (node, ids):
        lose(path)
        await refused(node, "deleted or replaced", f"saved in {saved}", f"move that file to {path}")
        assert stored(saved) >= ids
        assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    assert "nothing is accepted" in caplog.text
    if path.exists():
        path.unlink()
    with pytest.raises(StoreFailed, match=r"move it to .*jobs\.db"):  # an empty file would forget all jobs
        await SqliteStore(path).__aenter__()
    saved.rename(path)
    async with running(path) as (node, _):
        assert {job.status for job in await node.fetch(list(ids))} == {JobStatus.SUCCESS}


async def test_a_deletion_that_only_the_end_of_the_node_sees_costs_no_job(path: Path) -> None:
    async with running(path) as (_, ids):
        delete(path)
    assert stored(beside(path, ".saved")) == ids


async def test_a_second_copy_does_not_replace_the_first(path: Path) -> None:
    async with running(path) as (_, ids):
        beside(path, ".saved").write_bytes(b"precious")
        path.unlink()
    assert beside(path, ".saved").read_bytes() == b"precious"
    assert stored(beside(path, ".saved-2")) == ids


async def test_where_no_copy_can_be_made_the_file_can_be_copied_while_the_node_runs(path: Path, tmp_path: Path) -> None:
    async with running(path) as (node, ids):
        shutil.rmtree(path.parent)
        await refused(node, "could not be saved", place := f"/proc/{os.getpid()}/fd/")
        reason = " ".join((await node.health()).reasons)
        copy = tmp_path / "copy.db"
        script = "import shutil, sys; shutil.copyfile(sys.argv[1], sys.argv[2])"  # in another process: see `stored`
        number = reason.partition(place)[2].split(";")[0].split()[0]
        subprocess.run([sys.executable, "-c", script, place + number, copy], check=True)
        assert stored(copy) >= ids


async def test_a_file_that_is_moved_back_is_used_again(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    elsewhere = path.with_name("elsewhere.db")
    caplog.set_level("INFO", "nodekit.store")
    async with running(path) as (node, ids):
        for _ in range(2):
            path.rename(elsewhere)
            await refused(node, "is not in its place", "move it back")
            assert stored(elsewhere) >= ids, "also without the log"
            elsewhere.rename(path)
            ids.add(id := (await node.submit(make_request())).id)
            await node.wait([id])
            await recovered(node)
        assert "is in its place again" in caplog.text
    assert stored(path) >= ids
    assert not beside(path, ".saved").exists()


async def test_a_folder_that_is_renamed_is_noticed(path: Path) -> None:
    renamed = path.parent.with_name("renamed")
    async with running(path) as (node, ids):
        path.parent.rename(renamed)
        await refused(node, "is not in its place")
        renamed.rename(path.parent)
        ids.add((await node.submit(make_request())).id)
    assert stored(path) >= ids


def replace_log(path: Path) -> None:
    beside(path, "-wal").unlink()
    beside(path, "-wal").write_bytes(b"")


@pytest.mark.parametrize(
    "lose",
    [
        pytest.param(lambda path: beside(path, "-wal").unlink(), id="log"),
        pytest.param(lambda path: beside(path, "-shm").unlink(), id="index of the log"),
        pytest.param(replace_log, id="replaced"),
    ],
)
async def test_without_its_log_the_file_has_all_jobs_and_nothing_is_accepted(
    path: Path, lose: Callable[[Path], None]
) -> None:
    async with running(path) as (node, ids):
        lose(path)
        await refused(node, "deleted or replaced", "start the node again")
        copy = path.with_name("copy.db")
        subprocess.run(["cp", path, copy], check=True)  # as it would be found after a crash
        assert stored(copy) >= ids
    async with running(path) as (node, _):
        assert {job.id for job in await node.fetch(list(ids))} == ids


def restore(path: Path, backup: Path) -> None:
    subprocess.run(["cp", backup, path], check=True)


async def test_a_backup_that_is_copied_over_the_file_is_noticed(path: Path) -> None:
    backup = path.with_name("backup.db")
    async with running(path):
        pass
    shutil.copy(path, backup)
    async with running(path) as (node, _):
        restore(path, backup)
        await refused(node, "content", "restore the backup again")
    for ending in ("-wal", "-shm"):
        beside(path, ending).unlink(missing_ok=True)
    restore(path, backup)
    async with running(path) as (node, _):
        assert len(await node.find(JobQuery())) == 10


async def test_a_file_that_is_cut_off_is_noticed(path: Path) -> None:
    async with running(path) as (node, _):
        os.truncate(path, 0)
        await refused(node, "content")


async def test_the_same_content_of_another_run_is_another_content(path: Path) -> None:
    async with running(path):
        pass
    backup = path.with_name("backup.db")
    shutil.copy(path, backup)
    async with SqliteTable(path) as table:
        restore(path, backup)
        with pytest.raises(StoreFailed, match="content"):
            await table.add([make_job()])


async def test_the_loss_of_its_locks_costs_no_job(path: Path) -> None:
    """Some code in the node's process opens the file and closes it. The next reader takes itself for the last one."""
    async with running(path) as (node, ids):
        path.read_bytes()
        ids.update(stored(path))
        await refused(node, "jobs.db-wal was deleted", "start the node again")
    async with running(path) as (node, _):
        assert {job.id for job in await node.fetch(list(ids))} == ids


async def test_a_backup_of_the_same_run_is_noticed_once_the_file_has_grown(path: Path) -> None:
    backup = path.with_name("backup.db")
    shell = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.backup(sqlite3.connect(sys.argv[2]))"
    async with SqliteTable(path) as table:
        await table.add([make_job()])
        subprocess.run([sys.executable, "-c", shell, path, backup], check=True)
        for _ in range(3):
            await table.add([make_job(data="x" * 100_000) for _ in range(50)])  # so much that the log is written back
        await table.check()
        restore(path, backup)
        for _ in range(2):
            with pytest.raises(StoreFailed, match="content"):
                await table.add([make_job()])


async def test_a_reader_that_holds_up_the_log_at_the_start_is_no_loss(path: Path) -> None:
    async with running(path):
        pass
    reader = """
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("BEGIN")
print(c.execute("SELECT count(*) FROM jobs").fetchone(), flush=True)
sys.stdin.read()
"""
    busy: list[sqlite3.Connection] = []

    class Impatient(SqliteTable):
        def _connect(self) -> sqlite3.Connection:
            connection = super()._connect()
            connection.execute("PRAGMA busy_timeout = 1")
            busy.append(connection)
            return connection

    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", reader, path], **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline()
        async with Impatient(path) as table:
            await table.add([make_job()])
            await table.check()
            process.stdin.close()
            process.wait()
            await table._writer.call(lambda connection: None)
            busy[0].execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            await table.add([make_job()])
            await table.check()


async def test_a_disk_that_is_full_at_the_start_prevents_none(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(path):
        pass

    class Full(SqliteTable):
        def _connect(self) -> sqlite3.Connection:
            connection = super()._connect()
            connection.execute("PRAGMA query_only = 1")  # writes fail
            return connection

    async with Full(path) as table:
        assert len(await table.find(JobQuery())) == 5
        await table.check()
    assert "has no new number" in caplog.text


async def test_other_programs_may_work_beside_the_node(path: Path) -> None:
    shell = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); {}; c.close()"
    async with running(path) as (node, ids):
        for work in ("c.execute('VACUUM')", "c.execute('PRAGMA wal_checkpoint(TRUNCATE)')", "c.execute('REINDEX')"):
            subprocess.run([sys.executable, "-c", shell.format(work), path], check=True)
            ids.add((await node.submit(make_request())).id)
            await recovered(node)
        async with SqliteStore(path).view() as view:
            assert await view.expire(finished_before=None, keep=2, limit=3) == 3
        await node.submit(make_request())
        await recovered(node)


async def test_only_what_was_committed_and_seen_is_acknowledged(path: Path) -> None:
    """Calls that wait for the same commit fail together, and no later one succeeds."""
    failed: list[StoreFailed] = []
    async with SqliteTable(path) as table:

        async def add() -> None:
            try:
                await table.add([make_job()])
            except StoreFailed as error:
                failed.append(error)

        path.unlink()
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(add)
        await add()
        for call in (table.save(make_job()), table.delete(["x"]), table.storage("a").put("k", b"v")):
            with pytest.raises(StoreFailed, match="deleted"):
                await call
    assert len(failed) == 21


NODE_FILE = """
[store]
use = "sqlite"
path = "data/jobs.db"

[[runners]]
use = "function"
[[runners.containers]]
id = "echo"
call = "containers.py:echo"

[[transports]]
use = "asgi"
bind = "127.0.0.1:0"
server = "{server}"
"""


@both_servers
async def test_clients_and_operators_of_a_served_node_are_told_and_no_accepted_job_is_lost(
    tmp_path: Path, path: Path, server: str
) -> None:
    file = tmp_path / "node.toml"
    file.write_text(NODE_FILE.format(server=server))
    (tmp_path / "containers.py").write_text("async def echo(data):\n    return data\n")
    job = {"containers": ["echo"], "data": {"n": 1}}
    async with serve(file) as (served, api):
        ids = [(await api.post("/api/jobs", job)).json["id"] for _ in range(5)]
        shutil.rmtree(path.parent)
        path.parent.mkdir()
        refused = await api.post("/api/jobs", job)
        assert refused.status == 503
        assert str(path) not in refused.error
        assert int(refused.headers["Retry-After"]) > 0
        health = await api.get("/health")
        assert health.status == 503
        assert "jobs.db was deleted or replaced" in str(health.json)
        assert "jobs were saved in" in str(health.json)
        await until(lambda: "jobs were saved in" in served.log)  # a thread writes it
        assert "Traceback" not in served.log
        served.signal(signal.SIGKILL)
        await served.ended()
    beside(path, ".saved").rename(path)
    async with serve(file) as (_, api):
        results = await api.results(*ids)
        assert [result["status"] for result in results] == ["success"] * 5


# -- how it is opened ----------------------------------------------------------------------------


async def test_a_link_as_log_or_index_is_not_followed(path: Path) -> None:
    target = path.with_name("precious")
    target.write_bytes(b"precious")
    for ending in ("-wal", "-shm", "-journal"):
        link = beside(path, ending)
        for make in (link.symlink_to, link.hardlink_to):
            make(target)
            with pytest.raises(StoreFailed, match="link"):
                await SqliteTable(path).__aenter__()
            link.unlink()
    assert target.read_bytes() == b"precious"


async def test_what_an_earlier_version_left_as_its_lock_is_not_touched(path: Path) -> None:
    target = path.with_name("precious")
    target.write_bytes(b"precious")
    beside(path, ".lock").symlink_to(target)
    async with SqliteTable(path):
        pass
    assert target.read_bytes() == b"precious"


async def test_a_database_with_a_second_name_is_refused(path: Path) -> None:
    async with running(path):
        pass
    other = path.with_name("other.db")
    other.hardlink_to(path)
    for name in (path, other):
        with pytest.raises(StoreFailed, match="2 names"):
            await SqliteTable(name).__aenter__()
    other.unlink()
    async with SqliteTable(path):
        other.hardlink_to(path)
        with pytest.raises(StoreInUse):
            await SqliteTable(other).__aenter__()


async def test_a_link_to_the_database_is_followed_once(path: Path) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    async with SqliteTable(link) as table:
        await table.add([job := make_job()])
        link.unlink()
        link.symlink_to(path.with_name("other.db"))
        await table.add([make_job()])
        assert not path.with_name("other.db").exists()
    assert job.id in stored(path)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(os.mkfifo, id="pipe"),
        pytest.param(lambda path: path.mkdir(), id="folder"),
        pytest.param(lambda path: path.symlink_to("/dev/zero"), id="device"),
        pytest.param(lambda path: path.symlink_to(path), id="circle"),
    ],
)
async def test_what_is_no_file_is_refused_at_once(path: Path, make: Callable[[Path], Any]) -> None:
    make(path)
    with anyio.fail_after(60):
        with pytest.raises(StoreFailed, match="cannot open"):
            await SqliteTable(path).__aenter__()
        with pytest.raises(StoreFailed, match="cannot open"):
            await SqliteStore(path).view().__aenter__()
        with pytest.raises(StoreFailed):
            await SqliteStore(path).compact()


async def test_modes_that_were_wider_are_tightened_with_a_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(path):
        subprocess.run(["cp", "--recursive", path.parent, path.parent.with_name("copy")], check=True)
    copy = path.parent.with_name("copy") / path.name
    for file in copy.parent.iterdir():  # the database and its log, as after a crash
        file.chmod(0o644)
    async with SqliteTable(copy):
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in copy.parent.iterdir()}
    assert modes.keys() >= {copy.name, beside(copy, "-wal").name}
    assert set(modes.values()) == {0o600}
    assert f"{copy} had the mode 0644" in caplog.text


async def test_a_log_without_its_database_is_not_thrown_away(path: Path) -> None:
    async with running(path):
        subprocess.run(["cp", beside(path, "-wal"), path.with_name("log")], check=True)
    moved = path.rename(path.with_name("moved.db"))
    path.with_name("log").rename(beside(path, "-wal"))
    with pytest.raises(StoreFailed, match="move the database back"):
        await SqliteTable(path).__aenter__()
    assert not path.exists()
    assert beside(path, "-wal").stat().st_size
    moved.rename(path)
    async with SqliteTable(path):
        pass


async def test_attempts_to_open_it_again_leave_the_locks_of_the_process_alone(path: Path) -> None:
    """SQLite's locks are gone once any descriptor of the file is closed. A reader that exits deletes the log then."""
    reader = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); print(c.execute('SELECT 1 FROM jobs').fetchone())"
    async with SqliteTable(path) as table:
        await table.add([make_job()])
        for call in (SqliteTable(path).__aenter__, SqliteStore(path).__aenter__, SqliteStore(path).compact):
            with pytest.raises(StoreInUse, match=f"process {os.getpid()}"):
                await call()
        async with SqliteStore(path).view() as view:
            await view.find(JobQuery())
        subprocess.run([sys.executable, "-c", reader, path], check=True, capture_output=True)
        assert beside(path, "-wal").exists()
        await table.add([make_job()])


async def test_the_file_is_free_for_others_although_a_view_of_it_is_open_here(path: Path) -> None:
    async with SqliteTable(path):
        view = SqliteStore(path).view()
        await view.__aenter__()
    async with SqliteTable(path):
        await view.__aexit__(None, None, None)
        with pytest.raises(StoreInUse):
            await SqliteTable(path).__aenter__()
    assert not [link for link in map(_target, Path("/proc/self/fd").iterdir()) if link == str(path)]


def _target(link: Path) -> str:
    with suppress(OSError):
        return os.readlink(link)
    return ""


async def test_children_do_not_inherit_the_lock(path: Path) -> None:
    async with SqliteTable(path):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        async with SqliteTable(path):
            pass
    finally:
        child.kill()
        child.wait()
