"""The tables, and the migrations that bring a file of an earlier version to this one."""

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec

from nodekit import ContainerError, ContainerResult, Outcome, StoreFailed

APPLICATION_ID = 0x6E6B6974  # "nkit"

MIGRATIONS = (
    # 1: `records` holds a job's request under number 0 and its step n under number n. Each is written once it is done,
    #    so that a job's small row can change without writing its payloads again.
    """
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        client TEXT NOT NULL,
        idempotency_key TEXT,
        status TEXT NOT NULL,
        open INTEGER NOT NULL,
        state BLOB NOT NULL
    );
    CREATE INDEX jobs_of_client ON jobs (client, id, status);
    CREATE INDEX jobs_open ON jobs (client, id) WHERE open = 1;
    CREATE UNIQUE INDEX jobs_by_key ON jobs (client, idempotency_key) WHERE idempotency_key IS NOT NULL;
    CREATE TABLE records (
        job INTEGER NOT NULL,
        number INTEGER NOT NULL,
        done INTEGER NOT NULL,
        body BLOB NOT NULL,
        PRIMARY KEY (job, number)
    ) WITHOUT ROWID;
    """,
    # 2: the errors of failed jobs, with an index. A job's error is that of its outcome or of its last step.
    """
    ALTER TABLE jobs ADD COLUMN error_container TEXT;
    ALTER TABLE jobs ADD COLUMN error TEXT;
    UPDATE jobs SET (error_container, error) = (
        SELECT error_in(state, body, 'container'), error_in(state, body, 'error') FROM (
            SELECT max(number), body FROM records WHERE job = jobs.number AND number > 0
        )
    ) WHERE status IN ('failed', 'cancelled');
    CREATE INDEX jobs_failed ON jobs (client, id, status, error_container) WHERE status IN ('failed', 'cancelled');
    """,
    # 3: the order in which jobs finished. Earlier jobs get low numbers; new numbers are microseconds since 1970.
    """
    ALTER TABLE jobs ADD COLUMN finish_number INTEGER;
    UPDATE jobs SET finish_number = place FROM (
        SELECT number AS finished, row_number() OVER (ORDER BY finished_at(state), id) AS place FROM jobs WHERE open = 0
    ) WHERE number = finished;
    CREATE INDEX jobs_finished ON jobs (finish_number, client) WHERE finish_number IS NOT NULL;
    """,
    # 4: records of plugins. AUTOINCREMENT never uses a number twice, so it serves as their version.
    """
    CREATE TABLE plugin_records (
        version INTEGER PRIMARY KEY AUTOINCREMENT,
        namespace TEXT NOT NULL,
        key TEXT NOT NULL,
        value BLOB NOT NULL
    );
    CREATE UNIQUE INDEX plugin_records_by_key ON plugin_records (namespace, key);
    """,
    # 5: the highest finish number that was deleted, so that numbers rise although the clock goes back meanwhile.
    """
    CREATE TABLE deleted_numbers (highest INTEGER NOT NULL);
    INSERT INTO deleted_numbers VALUES (0);
    """,
)


class _State(msgspec.Struct):
    outcome: Outcome | None = None
    finished_at: float | None = None


class _Step(msgspec.Struct):
    result: ContainerResult | None = None


def _error_in(state: bytes, last_step: bytes | None, field: str) -> str | None:
    """Return a field of the error with which a job ended. Return None if it has no error."""
    outcome = msgspec.json.decode(state, type=_State).outcome
    result = outcome and outcome.result
    if result is None and last_step is not None:
        result = msgspec.json.decode(last_step, type=_Step).result
    return getattr(result, field) if isinstance(result, ContainerError) else None


def _finished_at(state: bytes) -> float:
    return msgspec.json.decode(state, type=_State).finished_at or 0.0


def prepare_empty_file(path: Path) -> None:
    """Prepare an empty file for giving back the space of deleted jobs. This is possible only before its first table."""
    if path.stat().st_size == 0:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("VACUUM")  # writes the first page, which records it


def check_version(connection: sqlite3.Connection, path: str) -> None:
    """Raise `StoreFailed` for a file that is not of this version."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID or version != len(MIGRATIONS):
        raise StoreFailed(f"{path} is not a store of this version of nodekit; start its node once, or upgrade")


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Bring the file to this version. Each migration is done completely or not at all.

    Raise `StoreFailed` for a file of another program or a newer version.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (tables or version):
        raise StoreFailed(f"{path} is an SQLite file of another program; name another path")
    if version > len(MIGRATIONS):
        raise StoreFailed(f"{path} was written by a newer nodekit (schema {version}, known {len(MIGRATIONS)}); upgrade")
    connection.create_function("error_in", 3, _error_in)
    connection.create_function("finished_at", 1, _finished_at)
    for number, script in enumerate(MIGRATIONS[version:], version + 1):
        marks = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number};"
        connection.executescript(f"BEGIN IMMEDIATE; {script} {marks} COMMIT;")
