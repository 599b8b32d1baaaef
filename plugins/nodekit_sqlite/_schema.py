"""The tables, and how a file of an earlier version becomes one of this version."""

import sqlite3

from nodekit import StoreFailed

APPLICATION_ID = 0x6E6B6974  # "nkit"

MIGRATIONS = (
    # 1: `records` holds a job's request under number 0 and its step n under number n, each written once it is done,
    #    so that a job's small row can change without its payloads being written again.
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
)


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Bring the file to this version, each step whole or not at all. Raises `StoreFailed` for a file of others."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (tables or version):
        raise StoreFailed(f"{path} is an SQLite file of another program; name another path")
    if version > len(MIGRATIONS):
        raise StoreFailed(f"{path} was written by a newer nodekit (schema {version}, known {len(MIGRATIONS)}); upgrade")
    for number, script in enumerate(MIGRATIONS[version:], version + 1):
        marks = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number};"
        connection.executescript(f"BEGIN IMMEDIATE; {script} {marks} COMMIT;")
