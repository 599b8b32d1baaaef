"""The file of the store `sqlite`: who may open it, how it is written and read, and messages of failures."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from components import settle_down, until
from msgspec.structs import replace

from nodekit import (
    FINISHED,
    UNFINISHED,
    UNSUCCESSFUL,
    ContainerError,
    Job,
    JobFields,
    JobQuery,
    JobStatus,
    Outcome,
    StoreFailed,
    StoreInUse,
    VersionConflict,
)
from nodekit.testing import (
    make_attempt,
    make_job,
    no_leaked_descriptors,
    succeeded,
    unnumbered,
    with_output,
)
from nodekit_memory import MemoryTable
from nodekit_sqlite import SqliteStore, SqliteTable
from nodekit_sqlite._schema import APPLICATION_ID, MIGRATIONS

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite"


class Traced(SqliteTable):
    """Records every statement."""

    def __init__(self, path: Path, **settings: Any) -> None:
        super().__init__(path, **{"synchronous": "NORMAL", **settings})
        self.statements: list[str] = []
        self.prepare: Callable[[sqlite3.Connection], object] = lambda connection: None

    def _connect(self) -> sqlite3.Connection:
        connection = super()._connect()
        self.prepare(connection)
        connection.set_trace_callback(self.statements.append)
        return connection

    def count(self, word: str) -> int:
        return sum(statement.strip().upper().startswith(word) for statement in self.statements)


# -- who may open it -----------------------------------------------------------------------------


async def test_its_files_are_for_the_owner_only(path: Path) -> None:
    before = os.umask(0)
    try:
        async with SqliteTable(path) as table:
            await table.add([make_job()])
            modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes.keys() == {"jobs.sqlite", "jobs.sqlite-wal", "jobs.sqlite-shm"}
    assert set(modes.values()) == {0o600}


async def test_a_second_opener_is_told_who_holds_it_and_what_to_do(path: Path) -> None:
    async with SqliteTable(path):
        with pytest.raises(StoreInUse) as raised:
            await SqliteTable(path).__aenter__()
        assert str(path) in str(raised.value)
        assert f"process {os.getpid()}" in str(raised.value)
        assert "stop it or name another path" in str(raised.value)
    async with SqliteTable(path):
        pass


async def test_a_database_has_one_owner_whatever_leads_to_it(path: Path) -> None:
    link = path.parent / "link.sqlite"
    link.symlink_to(path)
    folder = path.parent / "folder"
    folder.symlink_to(path.parent)
    async with SqliteTable(path):
        for other in (link, folder / path.name, folder / link.name):
            with pytest.raises(StoreInUse, match=f"process {os.getpid()}"):
                await SqliteTable(other).__aenter__()


async def test_the_loop_goes_on_while_a_database_is_opened(path: Path) -> None:
    table, gone_round = Traced(path), threading.Event()
    waited: list[bool] = []
    table.prepare = lambda connection: waited.append(gone_round.wait(60))

    async def go_round() -> None:
        await settle_down()
        gone_round.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(go_round)
        async with table:
            pass
    assert set(waited) == {True}


HOLDER = """
import anyio, sys
from pathlib import Path
from nodekit.testing import make_job
from nodekit_sqlite import SqliteTable

async def main():
    async with SqliteTable(Path(sys.argv[1])) as table:
        [job] = await table.add([make_job()])
        print(job.id, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


async def test_the_lock_of_another_process_ends_with_it_however_it_ends(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            id = holder.stdout.readline().strip()
            with pytest.raises(StoreInUse, match=f"process {holder.pid}"):
                await SqliteTable(path).__aenter__()
        finally:
            holder.send_signal(signal.SIGKILL)
    async with SqliteTable(path) as table:
        assert await table.find(JobQuery(limit=10)) == [id]


async def test_other_programs_can_look_at_a_live_file(path: Path) -> None:
    async with SqliteTable(path) as table:
        await table.add([job := make_job()])
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
            assert connection.execute("SELECT id FROM jobs").fetchall() == [(job.id,)]
        connection.close()


# -- files that it cannot use --------------------------------------------------------------------


async def opening_fails(path: Path) -> str:
    with pytest.raises(StoreFailed) as raised:
        await SqliteTable(path).__aenter__()
    assert str(path) in str(raised.value)
    return str(raised.value)


async def test_a_file_of_a_newer_version_is_refused_and_left_alone(path: Path) -> None:
    async with SqliteTable(path) as table:
        await table.add([job := make_job()])
    with sqlite3.connect(path) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute(f"PRAGMA user_version = {version + 1}")
    assert "newer" in await opening_fails(path)
    assert "upgrade" in await opening_fails(path)
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    async with SqliteTable(path) as table:
        assert await table.get([job.id]) == [job]


async def test_a_file_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    assert "another program; name another path" in await opening_fails(path)
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("recipes",)]
    connection.close()


async def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.write_bytes(b"my notes " * 1000)
    assert "not a database" in await opening_fails(path)
    assert path.read_bytes() == b"my notes " * 1000


async def test_a_corrupt_file_is_a_store_that_failed(path: Path) -> None:
    async with SqliteTable(path) as table:
        await table.add([make_job(data={"n": n, "text": "x" * 2000}) for n in range(200)])
    with path.open("r+b") as file:
        for page in range(1, path.stat().st_size // 4096):
            file.seek(page * 4096)
            file.write(b"\xaa" * 4096)
    assert "malformed; restore a backup" in await opening_fails(path)


async def test_a_file_that_cannot_be_opened_is_not_kept_open(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreFailed) as raised:  # the error holds all that existed when it failed
        await SqliteTable(path).__aenter__()
    assert raised.value.__traceback__
    assert str(path) not in open_files()


def open_files() -> set[str]:
    found: set[str] = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.add(os.readlink(descriptor))
    return found


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert f"there is no folder {tmp_path}/missing" in await opening_fails(tmp_path / "missing" / "jobs.sqlite")


async def test_a_folder_in_its_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert "directory" in await opening_fails(tmp_path / "folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "may not write in the folder" in await opening_fails(tmp_path / "jobs.sqlite")
    tmp_path.chmod(0o700)


async def test_a_failed_opening_holds_no_lock(path: Path) -> None:
    path.write_bytes(b"my notes " * 1000)
    await opening_fails(path)
    path.unlink()
    async with SqliteTable(path):
        pass


# -- files of earlier versions -------------------------------------------------------------------


async def write_version_1(path: Path, jobs: Sequence[Job]) -> None:
    """Write a file of version 1: it has neither columns nor an index for errors."""
    newer = path.with_name("newer.sqlite")
    async with SqliteTable(newer) as table:
        await table.add([replace(job, steps=(), outcome=None, status=JobStatus.ACCEPTED) for job in jobs])
        for job in jobs:
            await table.save(job)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(MIGRATIONS[0])
        connection.executescript(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1")
        connection.execute("ATTACH ? AS newer", (str(newer),))
        connection.execute(
            "INSERT INTO jobs SELECT number, id, client, idempotency_key, status, open, state FROM newer.jobs"
        )
        connection.execute("INSERT INTO records SELECT place >> 24, place & 0xffffff, done, body FROM newer.records")
        for job in jobs:
            request = msgspec.json.encode(job.request)
            connection.execute(
                "UPDATE records SET body = ? WHERE number = 0 AND job = (SELECT number FROM jobs WHERE id = ?)",
                (request, job.id),
            )


def jobs_of_every_end() -> list[Job]:
    """Return jobs: running, successful, failed by a step, settled as failed, cancelled, failed with no message."""
    jobs = [make_job("echo", data={"n": n}) for n in range(6)]
    by_step = ContainerError(container="echo", error="said by a \x00 step", kind="status", status=500)
    told = ContainerError(container="told", error="reported from outside", kind="status")
    return [
        with_output(jobs[0]),
        succeeded(jobs[1]),
        with_output(jobs[2]).with_result(by_step, make_attempt()).finished(Outcome(JobStatus.FAILED), 2.0),
        with_output(jobs[3]).finished(Outcome(JobStatus.FAILED, told), 5.0),
        with_output(jobs[4]).finished(Outcome(JobStatus.CANCELLED), 3.0),
        jobs[5].finished(Outcome(JobStatus.FAILED), 2.0),
    ]


async def test_a_file_of_version_1_keeps_its_jobs_and_learns_how_they_failed(path: Path) -> None:
    jobs = jobs_of_every_end()
    await write_version_1(path, jobs)
    _, _, by_step, told, cancelled, _ = ids = [job.id for job in jobs]
    async with SqliteTable(path) as table:
        assert [*map(unnumbered, await table.get(ids))] == jobs
        assert await table.find(JobQuery(limit=10)) == ids
        in_order = [by_step, ids[5], cancelled, told, ids[1]]
        assert await table.find(JobQuery(order="finished", limit=10)) == in_order
        assert await table.find(JobQuery(status=UNSUCCESSFUL, limit=10)) == ids[2:]
        assert await table.find(JobQuery(container="echo", limit=10)) == [by_step, cancelled]
        assert await table.find(JobQuery(error="\x00 step", limit=10)) == [by_step]
        assert await table.find(JobQuery(container="told", error="outside", limit=10)) == [told]
        assert [job.id for job in await table.unfinished()] == ids[:1]
        assert await table.sizes(ids) == {job.id: job.payload_bytes for job in jobs}
        assert (await table.unfinished())[0].payload_bytes == jobs[0].payload_bytes
        assert 6 * 512 < (await table.stored_bytes(["alice"]))["alice"] < 6 * 2048
        await table.save(jobs[0].finished(Outcome(JobStatus.FAILED, jobs[3].error), 3.0))
        assert await table.find(JobQuery(container="told", limit=10)) == [ids[0], told]
    async with SqliteTable(path) as table:
        assert await table.find(JobQuery(error="", limit=10)) == [ids[0], by_step, told, cancelled]
        await table.add([old := make_job()])
        assert await table.get([old.id]) == [old]


async def test_a_migrated_file_has_the_tables_and_indexes_of_a_new_one(path: Path) -> None:
    await write_version_1(path, [make_job()])
    async with SqliteTable(path), SqliteTable(path.with_name("new.sqlite")):
        pass
    old, new = (schema(path.with_name(name)) for name in (path.name, "new.sqlite"))
    assert old == new
    assert {"jobs", "records", "jobs_failed"} <= old.keys()


def schema(path: Path) -> dict[str, str]:
    with closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT name, sql FROM sqlite_master"))


async def test_a_migration_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    jobs = jobs_of_every_end()
    await write_version_1(path, jobs)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE jobs SET state = 'no JSON' || state WHERE id = ?", (jobs[3].id,))
        before = schema(path), connection.execute("SELECT * FROM jobs").fetchall()
    await opening_fails(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert (schema(path), connection.execute("SELECT * FROM jobs").fetchall()) == before
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        connection.execute("UPDATE jobs SET state = CAST(substr(state, 8) AS BLOB) WHERE id = ?", (jobs[3].id,))
    async with SqliteTable(path) as table:
        assert [*map(unnumbered, await table.get([job.id for job in jobs]))] == jobs


# -- a full disk ---------------------------------------------------------------------------------


async def test_a_full_disk_is_a_store_that_failed_and_recovers(path: Path) -> None:
    table = Traced(path)
    limit = 60
    table.prepare = lambda connection: connection.execute(f"PRAGMA max_page_count = {limit}")
    async with table:
        await table.add([first := make_job()])
        with pytest.raises(StoreFailed, match="full"):
            await table.add([make_job(data={"large": "x" * 1_000_000})])
        with pytest.raises(StoreFailed, match="full"):
            await table.save(with_output(first, "x" * 1_000_000))
        assert await table.get([first.id]) == [first]
        assert await table.find(JobQuery(limit=10)) == [first.id]
        await table._writer.call(lambda connection: connection.execute("PRAGMA max_page_count = 100000").close())
        await table.save(newer := with_output(first, "x" * 1_000_000))
        await table.add([second := make_job(data={"large": "x" * 1_000_000})])
        assert await table.get([first.id, second.id]) == [newer, second]


FILE_LIMIT = """
import anyio, resource, signal, sys
from pathlib import Path
from nodekit import JobQuery, StoreFailed
from nodekit.testing import make_job
from nodekit_sqlite import SqliteTable

async def main():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    async with SqliteTable(Path(sys.argv[1])) as table:
        first = make_job()
        await table.add([first])
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        try:
            await table.add([make_job(data={"large": "x" * 1_000_000})])
        except StoreFailed as error:
            print("failed:", error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        second = make_job(data={"large": "x" * 1_000_000})
        await table.add([second])
        assert await table.get([first.id, second.id]) == [first, second]
        assert await table.find(JobQuery(limit=10)) == [first.id, second.id]
        print("recovered")

anyio.run(main)
"""


async def test_a_write_that_the_system_refuses_is_a_store_that_failed_and_recovers(path: Path) -> None:
    result = await anyio.run_process([sys.executable, "-c", FILE_LIMIT, str(path)], stderr=None)
    assert re.fullmatch(r"failed: sqlite: .+\nrecovered\n", result.stdout.decode())


# -- what is written -----------------------------------------------------------------------------


async def test_writes_at_the_same_time_share_commits(path: Path) -> None:
    async with Traced(path) as table:
        table.statements.clear()
        jobs = [make_job() for _ in range(400)]
        async with anyio.create_task_group() as tasks:
            for job in jobs:
                tasks.start_soon(table.add, [job])
        assert table.count("COMMIT") <= 40
        assert await table.find(JobQuery(limit=1000)) == [job.id for job in jobs]


async def test_a_write_that_fails_harms_none_that_shares_its_commit(path: Path) -> None:
    async with Traced(path) as table:
        await table.add([known := make_job()])
        table.statements.clear()
        failed: list[str] = []

        async def save(job: Job) -> None:
            try:
                await table.save(with_output(job))
            except StoreFailed as error:
                failed.append(str(error))

        jobs = [make_job() for _ in range(20)]
        async with anyio.create_task_group() as tasks:
            for job in jobs[:10]:
                tasks.start_soon(table.add, [job])
            tasks.start_soon(save, unknown := make_job())
            tasks.start_soon(save, known)
            for job in jobs[10:]:
                tasks.start_soon(table.add, [job])
        assert await table.find(JobQuery(limit=100)) == [known.id, *(job.id for job in jobs)]
        assert [len(job.steps) for job in await table.get([known.id])] == [1]
        assert len(failed) == 1
        assert unknown.id in failed[0]


async def test_add_keeps_all_or_none(path: Path) -> None:
    async with Traced(path) as table:
        await table._writer.call(lambda c: c.execute("PRAGMA max_page_count = 60").close())
        with pytest.raises(StoreFailed):
            await table.add([make_job(), make_job(data={"large": "x" * 1_000_000}), make_job()])
        assert await table.find(JobQuery(limit=10)) == []
        assert list(await table.unfinished()) == []


async def test_saving_a_step_writes_neither_the_request_nor_earlier_steps_again(path: Path) -> None:
    large = "x" * 100_000
    async with SqliteTable(path, synchronous="NORMAL") as table:
        job = make_job(data={"large": large})
        await table.add([job])
        for _ in range(10):
            job = with_output(job, large)
            await table.save(job)
            open = job.with_failure("echo", make_attempt(kind="timeout", failure="no reply"))
            assert await _rows_written(table, job) == 1, "the job's small row"
            assert await _rows_written(table, open) == 2, "and its open step"
            assert await _rows_written(table, open) == 2
        wal = path.with_name(path.name + "-wal").stat().st_size
        assert wal < 6_000_000, "11 payloads of 100 kB, not 66 of them"


async def _rows_written(table: SqliteTable, job: Job) -> int:
    before = await table._writer.call(lambda connection: connection.total_changes)
    await table.save(job)
    return await table._writer.call(lambda connection: connection.total_changes) - before


# -- how it is read ------------------------------------------------------------------------------


def plans(path: Path, statements: list[str]) -> list[str]:
    with sqlite3.connect(path) as connection:
        found = [
            row[3]
            for statement in statements
            if statement.lstrip().upper().startswith("SELECT")
            for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")
        ]
    connection.close()
    return found


async def plan_of(path: Path, call: Callable[[SqliteTable], Any]) -> str:
    async with Traced(path) as table:
        table.statements.clear()
        await call(table)
        return "; ".join(plans(path, table.statements))


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda table: table.get([make_job().id]), id="get"),
        pytest.param(lambda table: table.get([make_job().id], client="a"), id="get of a client"),
        *(
            pytest.param(partial(lambda table, fields: table.get([make_job().id], fields=fields), fields=fields), id=id)
            for id, fields in JobFields.__members__.items()
        ),
        pytest.param(lambda table: table.find(JobQuery(client="a", limit=10)), id="client"),
        pytest.param(
            lambda table: table.find(JobQuery(client="a", after=make_job().id, limit=10)), id="client and cursor"
        ),
        pytest.param(
            lambda table: table.find(JobQuery(client="a", status=UNFINISHED, limit=10)), id="client's open ones"
        ),
        pytest.param(lambda table: table.find(JobQuery(client="a", status=FINISHED, limit=10)), id="client and status"),
        pytest.param(lambda table: table.find(JobQuery(client="a", idempotency_key="k", limit=10)), id="key"),
        pytest.param(
            lambda table: table.find(JobQuery(client="a", idempotency_key="k", container="x", limit=10)),
            id="key and error",
        ),
        pytest.param(lambda table: table.find(JobQuery(after=make_job().id, limit=10)), id="cursor"),
        pytest.param(lambda table: table.find(JobQuery(client="a", order="newest", limit=10)), id="newest"),
        pytest.param(lambda table: table.storage("a").get("k"), id="record"),
        pytest.param(lambda table: table.delete([make_job().id]), id="delete"),
        pytest.param(lambda table: table.add([make_job(idempotency_key="k")]), id="add"),
    ],
)
async def test_reads_go_through_an_index(path: Path, call: Callable[[SqliteTable], Any]) -> None:
    plan = await plan_of(path, call)
    assert "SCAN jobs" not in plan
    assert "SCAN records" not in plan


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda table: table.unfinished(), id="unfinished"),
        pytest.param(lambda table: table.find(JobQuery(status=UNFINISHED, limit=10)), id="open ones"),
        pytest.param(lambda table: table.find(JobQuery(status={JobStatus.RUNNING}, limit=10)), id="running ones"),
    ],
)
async def test_looking_for_open_jobs_reads_no_finished_ones(path: Path, call: Callable[[SqliteTable], Any]) -> None:
    plan = await plan_of(path, call)
    assert "jobs_open" in plan


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda table: table.find(JobQuery(order="finished", limit=10)), id="from the start"),
        pytest.param(lambda table: table.find(JobQuery(order="finished", after="7", before="9")), id="between"),
        pytest.param(
            lambda table: table.find(JobQuery(order="finished", client="a", status=UNSUCCESSFUL)), id="client"
        ),
        pytest.param(lambda table: table.last_surplus(10), id="surplus"),
        pytest.param(lambda table: table.storage("a").scan("k", after="l"), id="records"),
    ],
)
async def test_what_has_an_order_is_read_in_it_and_not_sorted(path: Path, call: Callable[[SqliteTable], Any]) -> None:
    plan = await plan_of(path, call)
    assert "jobs_finished" in plan or "plugin_records_by_key" in plan
    assert "TEMP B-TREE" not in plan


@pytest.mark.parametrize(
    "conditions",
    [
        {"status": UNSUCCESSFUL},
        {"status": [JobStatus.FAILED], "after": make_job().id},
        {"status": UNSUCCESSFUL, "container": "x"},
        {"container": "x", "error": "timed out"},
        {"error": "timed out", "status": FINISHED},
    ],
    ids=" and ".join,
)
async def test_looking_for_failed_jobs_of_a_client_reads_no_others_and_sorts_nothing(
    path: Path, conditions: dict[str, Any]
) -> None:
    plan = await plan_of(path, lambda table: table.find(JobQuery(client="a", **conditions, limit=10)))
    assert "jobs_failed (client=?" in plan
    assert "TEMP B-TREE" not in plan
    assert ("COVERING" in plan.rpartition("; ")[2]) is ("error" not in conditions)
    plan = await plan_of(path, lambda table: table.find(JobQuery(**conditions, limit=10)))
    assert "jobs_failed_of_all" in plan
    assert "TEMP B-TREE" not in plan


async def test_a_conflict_of_records_costs_those_who_share_its_commit_nothing(path: Path) -> None:
    async with Traced(path) as table:
        records = table.storage("a")
        await records.put("k", b"1")
        table.statements.clear()

        async def conflict() -> None:
            with pytest.raises(VersionConflict):
                await records.put("k", b"2", expect=0)

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(conflict)
                tasks.start_soon(table.add, [make_job()])
        assert "ROLLBACK" not in table.statements
        assert len(await table.find(JobQuery())) == 10


async def test_whatever_is_looked_for_together_is_found_as_in_memory(path: Path) -> None:
    """SQLite refuses a statement if its index does not fit the conditions."""
    statuses = None, [], UNFINISHED, FINISHED, UNSUCCESSFUL, *([one] for one in JobStatus), list(JobStatus)
    choices = {
        "client": (None, "alice"),
        "status": (*statuses, [JobStatus.FAILED, JobStatus.RUNNING]),
        "idempotency_key": (None, "k"),
        "container": (None, "echo"),
        "error": (None, "reported"),
        "order": ("oldest", "newest", "finished"),
        "after": (None, make_job().id),
    }
    numbers = iter((5, 3, 8, 1, 4))
    jobs = [replace(job, finish_number=next(numbers)) if job.status.finished else job for job in jobs_of_every_end()]
    jobs += [
        replace(job, id=make_job().id, request=make_job(client="bob", idempotency_key="k").request) for job in jobs[:1]
    ]
    async with SqliteTable(path, synchronous="NORMAL") as table, MemoryTable() as model:
        await table.add(jobs)
        await model.add(jobs)
        for values in product(*choices.values()):
            conditions = dict(zip(choices, values, strict=True))
            if conditions["order"] == "finished" and conditions["after"]:
                conditions["after"] = "3"
            query = JobQuery(**conditions, limit=10)
            assert await table.find(query) == await model.find(query) == query.choose(jobs), query


async def test_a_hundred_thousand_stored_jobs_slow_nothing_down_and_fill_no_memory(path: Path) -> None:
    async with SqliteTable(path, synchronous="NORMAL"):
        pass
    _fill(path, 100_000)
    store = SqliteStore(path, synchronous="NORMAL")
    store.table = Traced(path)
    async with store:
        assert store._unfinished == {}
        steps = await _steps(store, lambda: store.find(JobQuery(limit=50)))
        steps += await _steps(store, lambda: store.find(JobQuery(client="client 7", after=f"{50_000:032}", limit=50)))
        steps += await _steps(store, lambda: store.find(JobQuery(status=UNFINISHED, limit=50)))
        steps += await _steps(store, lambda: store.find(JobQuery(client="client 7", status=UNFINISHED, limit=50)))
        steps += await _steps(store, lambda: store.find(JobQuery(client="client 7", status=UNSUCCESSFUL, limit=50)))
        steps += await _steps(
            store, lambda: store.find(JobQuery(client="client 7", container="x", error="no", limit=50))
        )
        steps += await _steps(store, lambda: store.find(JobQuery(error="no", limit=50)))
        assert steps < 50, "in thousands of virtual machine steps"
        await store.add([job := make_job()])
        assert await store.find(JobQuery(status=UNFINISHED, limit=50)) == [job.id]


def _fill(path: Path, count: int) -> None:
    """Insert finished jobs as the table would write them, but quickly."""
    rows = ((f"{n:032}", f"client {n % 10}", "success", 0, b"{}", 0, 0, b"{}") for n in range(count))
    with sqlite3.connect(path) as connection:
        columns = "id, client, status, open, state, size, stored, request"
        connection.executemany(f"INSERT INTO jobs ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
    connection.close()


async def _steps(store: SqliteStore, call: Callable[[], Any]) -> int:
    """Return how many thousand steps of SQLite's virtual machine the statements of a call take."""
    table, statements, steps = store.table, list[str](), 0
    assert isinstance(table, Traced)
    table.statements.clear()
    await call()
    statements += table.statements

    def progress() -> int:
        nonlocal steps
        steps += 1
        return 0

    with closing(table._connect()) as connection:
        connection.set_progress_handler(progress, 1000)
        for statement in statements:
            if statement.lstrip().upper().startswith("SELECT"):
                connection.execute(statement).fetchall()
    return steps


async def test_settling_and_deleting_leaves_no_rows_behind(path: Path) -> None:
    async with SqliteTable(path, synchronous="NORMAL") as table:
        jobs = [make_job(data={"n": n}) for n in range(10)]
        await table.add(jobs)
        for job in jobs:
            await table.save(succeeded(job))
        assert await table.delete([job.id for job in jobs]) == 10
        counts = await table._readers.call(
            lambda c: c.execute("SELECT (SELECT count(*) FROM jobs) + (SELECT count(*) FROM records)").fetchone()
        )
        assert counts == (0,)


# -- after the end -------------------------------------------------------------------------------


async def test_a_call_after_the_end_fails_and_does_not_wait_forever(path: Path) -> None:
    async with SqliteStore(path) as store:
        await store.add([job := make_job()])
    with anyio.fail_after(60):
        for call in (
            lambda: store.get([job.id]),
            lambda: store.add([make_job()]),
            lambda: store.settle(job.id, Outcome(JobStatus.CANCELLED), client=None),
        ):
            with pytest.raises(StoreFailed):
                await call()


async def test_nothing_is_open_and_no_thread_is_left_after_the_end(path: Path) -> None:
    opened: list[sqlite3.Connection] = []

    class Kept(SqliteTable):
        def _connect(self) -> sqlite3.Connection:
            opened.append(connection := super()._connect())  # held, so that nobody else closes it
            return connection

    async with no_leaked_descriptors(), Kept(path) as table:
        await table.add([make_job()])
        assert _threads() == 5
    assert _threads() == 0
    # SQLite removes its other files when the last connection is closed
    assert os.listdir(path.parent) == [path.name]
    assert opened
    for connection in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")


def _threads() -> int:
    return sum(thread.name == "nodekit-sqlite" for thread in threading.enumerate())


@pytest.mark.timeout(20)  # a failure would hang, and only this limit ends it
@pytest.mark.parametrize("waiting", [1, 3, 4, 7])  # less than a group, a group, and a group with some more
async def test_a_thread_that_is_busy_at_the_end_does_what_waits_and_stops(path: Path, waiting: int) -> None:
    busy, go_on = threading.Event(), threading.Event()

    def hold(connection: sqlite3.Connection) -> None:
        busy.set()
        go_on.wait(10)

    jobs = [make_job() for _ in range(waiting)]
    table = SqliteTable(path, synchronous="NORMAL", group=4)
    async with anyio.create_task_group() as tasks:
        async with table:
            tasks.start_soon(table._writer.call, hold)
            await until(busy.is_set)
            for job in jobs:
                tasks.start_soon(table.add, [job])
            await settle_down()
            tasks.start_soon(_go_on, go_on)
    assert _threads() == 0
    async with SqliteTable(path) as table:
        assert await table.find(JobQuery(limit=100)) == [job.id for job in jobs]


async def _go_on(go_on: threading.Event) -> None:
    await settle_down()  # meanwhile the table closes
    go_on.set()


async def test_what_was_asked_before_the_end_is_still_done(path: Path) -> None:
    table = SqliteTable(path, synchronous="NORMAL")
    jobs = [make_job() for _ in range(100)]
    async with anyio.create_task_group() as tasks:
        async with table:
            for job in jobs:
                tasks.start_soon(table.add, [job])
            await anyio.lowlevel.checkpoint()
    async with SqliteTable(path) as table:
        assert await table.find(JobQuery(limit=1000)) == [job.id for job in jobs]
