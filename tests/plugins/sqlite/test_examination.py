"""The look of `nodekit doctor` into a database: damage, other schemas, nodes that work on it; nothing is written."""

import hashlib
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import anyio
import pytest
from every_job import write_jobs

from nodekit import Configured, ExaminedFile, Finding, NodeFile
from nodekit.testing import make_job
from nodekit_sqlite import SqliteConfig, SqliteTable, _pages
from nodekit_sqlite import doctor as checks
from nodekit_sqlite._schema import MIGRATIONS

KNOWN = len(MIGRATIONS)


def found(path: Path) -> list[Finding]:
    components = (Configured("store", "sqlite", "store", SqliteConfig(path=path, min_free_bytes=0)),)
    return list(checks.findings(ExaminedFile(NodeFile(path.parent / "node.toml", "n"), components)))


def state_of(folder: Path) -> dict[str, tuple[str, int, int]]:
    """Return the content, the time and the mode of each file of a folder."""
    return {
        one.name: (hashlib.sha256(one.read_bytes()).hexdigest(), one.stat().st_mtime_ns, one.stat().st_mode)
        for one in folder.iterdir()
    }


@pytest.fixture
def database(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    path = folder / "jobs.db"

    async def made() -> None:
        async with SqliteTable(path) as table:
            await write_jobs(table, [make_job() for _ in range(200)])

    anyio.run(made)
    return path


def test_a_whole_file_is_well_and_the_folder_is_as_it_was(database: Path) -> None:
    before = state_of(database.parent)
    (finding,) = found(database)
    assert (finding.level, finding.subject) == ("ok", "store.path")
    assert f"is whole, with schema {KNOWN}" in finding.text
    assert state_of(database.parent) == before


def test_a_file_that_is_not_there_yet_is_no_error_and_is_not_made(tmp_path: Path) -> None:
    (finding,) = found(tmp_path / "jobs.db")
    assert (finding.level, os.listdir(tmp_path)) == ("ok", [])
    (tmp_path / "jobs.db").touch(0o600)
    (finding,) = found(tmp_path / "jobs.db")
    assert finding.level == "ok"
    assert "is empty" in finding.text


def test_a_log_without_its_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "jobs.db-wal").write_bytes(b"x" * 100)
    (finding,) = found(tmp_path / "jobs.db")
    assert finding.level == "error"
    assert "move the database back" in finding.cure


def test_a_link_beside_the_file_is_an_error(database: Path) -> None:
    (database.parent / "jobs.db-wal").symlink_to("elsewhere")
    (finding,) = found(database)
    assert finding.level == "error"
    assert "is a link" in finding.text


def test_a_file_of_something_else_is_an_error_with_a_cure(database: Path) -> None:
    database.write_bytes(b"this is no database" * 500)
    (finding,) = found(database)
    assert (finding.level, "restore a backup" in finding.cure) == ("error", True)
    assert "file is not a database" in finding.text
    database.unlink()
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE others (a)")
    database.chmod(0o600)
    (finding,) = found(database)
    assert (finding.level, finding.cure) == ("error", "name another path")


@pytest.mark.parametrize("how", ["a page of zeros", "a cut file", "an index that does not fit"])
def test_damage_is_an_error_with_a_cure(database: Path, how: str) -> None:
    if how == "a cut file":
        os.truncate(database, database.stat().st_size // 2)
    elif how == "a page of zeros":
        with database.open("r+b") as file:
            file.seek(database.stat().st_size // 2 // 4096 * 4096)
            file.write(bytes(4096))
    else:
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute("UPDATE sqlite_master SET rootpage = 2 WHERE name = 'jobs_of_client'")
        for beside in database.parent.glob("jobs.db-*"):
            beside.unlink()
    before = state_of(database.parent)
    damage = [one for one in found(database) if one.level == "error"]
    assert len(damage) == 1
    assert "restore a backup" in damage[0].cure
    assert ("its end is missing, it has " in damage[0].text) == (how == "a cut file")
    assert ("store copy" in damage[0].cure) == (how != "a cut file")
    assert state_of(database.parent) == before


def with_version(database: Path, version: int) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")


def test_a_newer_schema_is_an_error_that_says_how_to_go_back(database: Path) -> None:
    with_version(database, KNOWN + 1)
    (finding,) = found(database)
    assert (finding.level, finding.cure) == ("error", "upgrade nodekit again")
    database.with_name(f"jobs.db.schema-{KNOWN}").write_bytes(b"")
    (finding,) = found(database)
    assert f"jobs.db.schema-{KNOWN}" in finding.cure


def test_an_upgrade_to_come_and_its_copy_are_told(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_version(database, KNOWN - 1)
    before = state_of(database.parent)
    upgrade, pages = found(database)
    assert (upgrade.level, pages.level) == ("note", "ok")
    assert f"from schema {KNOWN - 1} to {KNOWN}, and keeps a copy" in upgrade.text
    assert state_of(database.parent) == before
    monkeypatch.setattr("nodekit_sqlite._upgrade.SPACE", 1e12)
    assert found(database)[0].level == "error"


def test_copies_of_earlier_upgrades_are_told(database: Path) -> None:
    database.with_name("jobs.db.schema-3").write_bytes(b"")
    note, _ = found(database)
    assert note.level == "note"
    assert "jobs.db.schema-3" in note.text


def test_a_node_that_works_on_the_file_is_told_with_its_process(database: Path) -> None:
    async def look() -> list[Finding]:
        async with SqliteTable(database) as table:
            await write_jobs(table, [make_job()])
            before = sorted(state_of(database.parent))
            told = await anyio.to_thread.run_sync(found, database)
            assert sorted(state_of(database.parent)) == before
            await write_jobs(table, [make_job()])
            return told

    note, pages = anyio.run(look)
    assert (note.level, pages.level) == ("note", "ok")
    assert f"(process {os.getpid()})" in note.text


@pytest.mark.parametrize("index", [True, False])
def test_what_a_killed_node_has_left_is_not_touched(database: Path, index: bool) -> None:
    copy = database.parent.with_name("copy")

    async def copied() -> None:
        async with SqliteTable(database) as table:
            await write_jobs(table, [make_job()])
            copy.mkdir()
            for name in ("jobs.db", "jobs.db-wal", "jobs.db-shm")[: 2 + index]:
                (copy / name).write_bytes((database.parent / name).read_bytes())
                (copy / name).chmod(0o600)

    anyio.run(copied)
    before = state_of(copy)
    (finding,) = found(copy / "jobs.db")
    assert finding.level == ("ok" if index else "note")
    assert state_of(copy) == before


class Repeated:
    """A timer that calls again and again until it is cancelled."""

    def __init__(self, seconds: float, call: Callable[[], object]) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(call,))
        self.start, self.join, self.cancel = self._thread.start, self._thread.join, self._over.set

    def _run(self, call: Callable[[], object]) -> None:
        while not self._over.is_set():
            call()


def test_a_file_that_is_too_large_for_the_time_is_said_to_be(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = OFF").fetchall()
        connection.execute("CREATE TABLE large (row INTEGER PRIMARY KEY, text BLOB)")
        rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)"
        connection.execute(f"INSERT INTO large {rows} SELECT i, zeroblob(9000) FROM n")
    monkeypatch.setattr(_pages, "Timer", Repeated)
    (finding,) = found(database)
    assert finding.level == "note"
    assert "`nodekit store check`" in finding.cure
