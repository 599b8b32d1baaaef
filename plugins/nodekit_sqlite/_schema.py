"""The tables, and the migrations that bring a file of an earlier version to this one."""

import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from secrets import randbelow
from typing import Any

import msgspec

from nodekit import (
    ContainerError,
    ContainerResult,
    JobRequest,
    Outcome,
    StoreFailed,
    default_group,
    outcome_bytes,
    result_bytes,
)
from nodekit_sqlite._damage import CURE, Damages, is_damage
from nodekit_sqlite._file import kept_copies
from nodekit_sqlite._rows import request_row
from nodekit_sqlite._sums import plugin_sum, record_sum, request_sum, state_sum

logger = logging.getLogger("nodekit.store")

APPLICATION_ID = 0x6E6B6974  # "nkit"
_VERSIONS, _STAMPS = 1 << 8, (1 << 23) - 1

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
    # 6: sizes, and payloads that jobs share. The record 0 is a job's data as they are; the rest of its request stands
    #    in its row. A record with an `owner` has its body in the record of the same number of that job, which may be
    #    deleted: `leftovers` names those. AUTOINCREMENT never uses a job's number twice. `size` is the number of bytes
    #    of a job's payloads; `stored` of what is kept for it alone, which `usage` has in total for each group.
    """
    CREATE TABLE jobs_6 (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        client TEXT NOT NULL,
        idempotency_key TEXT,
        status TEXT NOT NULL,
        open INTEGER NOT NULL,
        error_container TEXT,
        error TEXT,
        finish_number INTEGER,
        size INTEGER NOT NULL,
        stored INTEGER NOT NULL,
        state BLOB NOT NULL,
        request BLOB NOT NULL
    );
    INSERT INTO jobs_6
        SELECT number, id, client, idempotency_key, status, open, error_container, error, finish_number,
            size_in(state, NULL) + (SELECT sum(size_in(NULL, body)) FROM records WHERE job = jobs.number),
            512 + size_in(state, NULL)
                + (SELECT sum(length(body)) FROM records WHERE job = jobs.number AND records.done = 1),
            state,
            request_in((SELECT body FROM records WHERE job = jobs.number AND records.number = 0))
        FROM jobs;
    UPDATE records SET body = data_in(body) WHERE number = 0;
    DROP TABLE jobs;
    ALTER TABLE jobs_6 RENAME TO jobs;
    CREATE INDEX jobs_of_client ON jobs (client, id, status);
    CREATE INDEX jobs_open ON jobs (client, id) WHERE open = 1;
    CREATE UNIQUE INDEX jobs_by_key ON jobs (client, idempotency_key) WHERE idempotency_key IS NOT NULL;
    CREATE INDEX jobs_failed ON jobs (client, id, status, error_container) WHERE status IN ('failed', 'cancelled');
    CREATE INDEX jobs_failed_of_all ON jobs (id, status, error_container) WHERE status IN ('failed', 'cancelled');
    CREATE INDEX jobs_finished ON jobs (finish_number, client) WHERE finish_number IS NOT NULL;
    ALTER TABLE records ADD COLUMN owner INTEGER;
    CREATE INDEX records_shared ON records (owner, number) WHERE owner IS NOT NULL;
    CREATE TABLE leftovers (job INTEGER PRIMARY KEY, of_group TEXT NOT NULL);
    CREATE TABLE usage (of_group TEXT PRIMARY KEY, stored INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO usage SELECT group_in(client, state) AS of_group, sum(stored) FROM jobs GROUP BY of_group;
    """,
    # 7: checksums (see `_sums`), and the number of steps of a job, so that a missing record is noticed. A record has
    #    the place job * 2^24 + number (see `_places`); its `owner` is the place of the record that has its body. The
    #    body is the last column: what stands behind a damaged one cannot be read.
    """
    ALTER TABLE jobs ADD COLUMN steps INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE jobs ADD COLUMN request_sum INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE jobs ADD COLUMN state_sum INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE plugin_records ADD COLUMN sum INTEGER NOT NULL DEFAULT 0;
    UPDATE jobs SET steps = (SELECT count(*) FROM records WHERE job = jobs.number AND records.number > 0);
    UPDATE jobs SET request_sum = request_sum(number, id, idempotency_key, request), state_sum = state_sum(
        number, id, client, state, status, open, finish_number, error_container, error, size, stored, steps
    );
    CREATE TABLE records_7 (
        place INTEGER PRIMARY KEY,
        done INTEGER NOT NULL,
        owner INTEGER,
        sum INTEGER NOT NULL,
        body BLOB NOT NULL
    );
    INSERT INTO records_7 SELECT place, done, owner_place, record_sum(place, done, owner_place, body), body FROM (
        SELECT job << 24 | number AS place, done, owner << 24 | number AS owner_place, body FROM records
    ) ORDER BY place;
    DROP TABLE records;
    ALTER TABLE records_7 RENAME TO records;
    CREATE INDEX records_shared ON records (owner) WHERE owner IS NOT NULL;
    UPDATE plugin_records SET sum = plugin_sum(namespace, key, value);
    """,
)


class _State(msgspec.Struct):
    outcome: Outcome | None = None
    finished_at: float | None = None
    group: str | None = None


class _Step(msgspec.Struct):
    result: ContainerResult | None = None


class _Payload(_Step):
    data: msgspec.Raw = msgspec.Raw()


def _error_in(state: bytes, last_step: bytes | None, field: str) -> str | None:
    """Return a field of the error with which a job ended. Return None if it has no error."""
    outcome = msgspec.json.decode(state, type=_State).outcome
    result = outcome and outcome.result
    if result is None and last_step is not None:
        result = msgspec.json.decode(last_step, type=_Step).result
    return getattr(result, field) if isinstance(result, ContainerError) else None


def _finished_at(state: bytes) -> float:
    return msgspec.json.decode(state, type=_State).finished_at or 0.0


def _size_in(state: bytes | None, record: bytes | None) -> int:
    """Return the number of bytes of the payloads in a state, or in a record of the version 5."""
    if state is not None:
        outcome = msgspec.json.decode(state, type=_State).outcome
        return outcome_bytes(outcome)
    found = msgspec.json.decode(record or b"{}", type=_Payload)
    return len(memoryview(found.data)) + result_bytes(found.result)


def _request_in(record: bytes) -> bytes:
    return request_row(msgspec.json.decode(record, type=JobRequest))


def _data_in(record: bytes) -> bytes:
    return bytes(msgspec.json.decode(record, type=JobRequest).data)


def _group_in(client: str, state: bytes) -> str:
    return msgspec.json.decode(state, type=_State).group or default_group(client)


def _sum(of: Callable[..., int], *columns: Any) -> int:
    """Return a checksum, or a wrong one if a column has a wrong type: that row is damaged, and no other."""
    try:
        return of(*columns)
    except TypeError:
        return -1


def prepare_empty_file(path: Path) -> None:
    """Prepare an empty file for giving back the space of deleted jobs. This is possible only before its first table."""
    if path.stat().st_size == 0:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("VACUUM")  # writes the first page, which records it


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version) % _VERSIONS


def stamp(connection: sqlite3.Connection) -> bytes:
    """Write a random number into the header of the file itself, which is not that of any copy made before.

    So it is noticed if a copy is written over the file. The number has the upper bits of `user_version`. Return the
    bytes that the header has there.
    """
    version = _version(connection) + _VERSIONS * (1 + randbelow(_STAMPS))
    try:
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.OperationalError as error:  # a full disk must not prevent the start
        logger.warning("the file has no new number, so an older copy over it might not be noticed: %s", error)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version).to_bytes(4, "big")


def check_readable(connection: sqlite3.Connection) -> None:
    """Raise `sqlite3.Error` if a table of jobs is damaged at its root, so that all jobs would seem to be lost."""
    for table, key in (("jobs", "number"), ("records", "place")):
        for order in ("ASC", "DESC"):
            try:
                connection.execute(f"SELECT {key} FROM {table} NOT INDEXED ORDER BY {key} {order} LIMIT 1").fetchone()  # noqa: S608
                break
            except sqlite3.Error as error:
                if order == "DESC" or not is_damage(error):
                    raise


def repair_indexes(connection: sqlite3.Connection, damages: Damages) -> None:
    """Build the indexes of the table of jobs anew if they do not fit it: jobs would be missing in answers.

    This reads no payloads: 0.15 s for 100,000 jobs. Raise `StoreFailed` if pages that each job needs cannot be read:
    jobs would be accepted, and their ends could never be stored.
    """
    _check_part(connection, "the table `usage`", "SELECT sum(stored) FROM usage")
    _check_part(connection, "the table `sqlite_sequence`", "SELECT max(seq) FROM sqlite_sequence")
    try:
        found = [text for (text,) in connection.execute("PRAGMA integrity_check(jobs)")]
        if found != ["ok"]:
            logger.error("the table of jobs is damaged; its indexes are built anew: %s", "; ".join(found[:3]))
            connection.execute("REINDEX jobs")
            found = [text for (text,) in connection.execute("PRAGMA integrity_check(jobs)")]
        if found != ["ok"]:
            damages.of_part("the table of jobs", "; ".join(found[:3]))
    except sqlite3.DatabaseError as error:  # such as a full disk, which must not prevent the start
        damages.of_part("the table of jobs", error)
        if is_damage(error):
            _check_indexes(connection)


def _check_indexes(connection: sqlite3.Connection) -> None:
    """Raise `StoreFailed` if an index of the table of jobs has pages that cannot be read. SQLite cannot rebuild it."""
    indexes = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'jobs'")
    for name, sql in indexes.fetchall():
        part = str(sql or "").partition(" WHERE ")
        statement = f"SELECT sum(number) FROM jobs INDEXED BY {name}{part[1]}{part[2]}"  # noqa: S608 - of our own schema
        _check_part(connection, f"the index `{name}`", statement)


def _check_part(connection: sqlite3.Connection, part: str, statement: str) -> None:
    try:
        connection.execute(statement).fetchone()
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            text = f"{part} of the database is damaged, so that no job could be finished"
            raise StoreFailed(f"{text} ({error}); {CURE}") from error
        raise


def schema_of(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of a file: that of its schema; 0 if it is empty.

    Raise `StoreFailed` for a file of another program or a newer version.
    """
    version, known = _version(connection), len(MIGRATIONS)
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (tables or version):
        raise StoreFailed(f"{path} is an SQLite file of another program; name another path")
    if version > known:
        text = f"{path} was written by a newer nodekit (schema {version}, known {known}); upgrade nodekit again"
        if copies := kept_copies(path, known):
            text = f"{text}, or go back: move {copies[-1]}, which an upgrade has kept, to {path}; it has no later jobs"
        raise StoreFailed(text)
    return version


def check_version(connection: sqlite3.Connection, path: Path) -> None:
    """Raise `StoreFailed` for a file that is not of this version."""
    version, known = schema_of(connection, path), len(MIGRATIONS)
    if version != known:
        text = f"{path} has schema {version}, and this nodekit reads schema {known}"
        raise StoreFailed(f"{text}; start its node once, which upgrades it")


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring a file from a version to this one, completely or not at all."""
    if version == len(MIGRATIONS):
        return
    connection.create_function("error_in", 3, _error_in)
    connection.create_function("finished_at", 1, _finished_at)
    connection.create_function("size_in", 2, _size_in)
    connection.create_function("request_in", 1, _request_in)
    connection.create_function("data_in", 1, _data_in)
    connection.create_function("group_in", 2, _group_in)
    connection.create_function("request_sum", 4, partial(_sum, request_sum))
    connection.create_function("state_sum", 12, partial(_sum, state_sum))
    connection.create_function("record_sum", 4, partial(_sum, record_sum))
    connection.create_function("plugin_sum", 3, partial(_sum, plugin_sum))
    marks = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {len(MIGRATIONS)};"
    try:
        connection.executescript(f"BEGIN IMMEDIATE; {''.join(MIGRATIONS[version:])} {marks} COMMIT;")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
