"""New jobs and changed ones in the file. Each function runs inside a transaction of the writing thread."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from nodekit import Job, JobFields, JobId, StoreFailed
from nodekit_sqlite._damage import CURE, Damages
from nodekit_sqlite._places import HIGHEST_JOB, LAST_NUMBER, OF_JOB, number_at, place
from nodekit_sqlite._reading import select
from nodekit_sqlite._rows import (
    changing_columns,
    is_left_out,
    outcome_bytes,
    output_bytes,
    request_row,
    step_records,
)
from nodekit_sqlite._sums import record_sum, request_sum, state_sum
from nodekit_sqlite._usage import Usage

JOB_BYTES = 512
"""Bytes that are counted for each job beyond those of its request, its payloads and its attempts: rows and indexes."""
_COMPARED_BYTES = 1 << 16
"""Size up to which a record of a retry is compared with the old job's. Of larger ones, the lengths are enough."""

# numbers are never used twice: `sqlite_sequence` has the highest one that there ever was
_LAST_NUMBER = """
    SELECT max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'jobs'), 0),
        coalesce((SELECT max(number) FROM jobs), 0))
"""
_INSERT = """
    INSERT OR IGNORE INTO jobs (
        number, id, client, idempotency_key, request, request_sum,
        state, status, open, finish_number, error_container, error, size, stored, steps, state_sum
    ) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_RECORD = "INSERT OR REPLACE INTO records (place, done, owner, body, sum) VALUES (?, ?, ?, ?, ?)"
_LAST = f"SELECT place FROM records WHERE place {OF_JOB} AND done = 1 ORDER BY place DESC LIMIT 1"  # noqa: S608
_THERE = f"SELECT number, open, size, stored, ({_LAST}) FROM jobs WHERE id = ?"  # noqa: S608
_THERE_WITHOUT_STEPS = "SELECT number, open, size, stored, NULL FROM jobs WHERE id = ?"
_UPDATE = """
    UPDATE jobs SET state = ?, status = ?, open = ?, finish_number = ?, error_container = ?, error = ?,
        size = ?, stored = ?, steps = ?, state_sum = ?
    WHERE number = ?
"""
_KEPT = "SELECT id FROM jobs WHERE id = ? UNION ALL SELECT id FROM jobs WHERE client = ? AND idempotency_key = ?"
_OLD = f"""
    SELECT records.place, coalesce(records.owner, records.place),
        CASE WHEN records.owner IS NULL THEN length(records.body) ELSE length(owned.body) END
    FROM jobs JOIN records ON records.place {OF_JOB} AND records.done = 1
        LEFT JOIN records AS owned ON owned.place = records.owner
    WHERE jobs.id = ?
"""  # noqa: S608 - our own texts only
_BODY = "SELECT body FROM records WHERE place = ?"

Record: TypeAlias = tuple[int, bool, bytes | memoryview]
"""The number of a record, True if it will not change any more, and its body."""


class Addition:
    """The rows of a new job, encoded before the writing thread begins with them.

    Those of a retry are encoded one by one as they are written: most of them are only compared.
    """

    def __init__(self, job: Job, *, whole: bool = False) -> None:
        """`whole` says that no output of the job is left out."""
        self.job, self.whole = job, whole
        self.state, *self.columns = changing_columns(job)
        self.request, self.size = request_row(job.request), job.payload_bytes
        self.stored = JOB_BYTES + len(self.request) + outcome_bytes(job)
        """Bytes that are written for the job; for a retry, without those of its records."""
        self.steps: Iterable[Record] = step_records(job, 0)
        if job.retry_of is None:
            self.steps = list(self.steps)
            self.stored += len(memoryview(job.request.data)) + sum(len(body) for _, done, body in self.steps if done)

    def changing(self, number: int, size: int, stored: int) -> Sequence[Any]:
        """Return the columns that change, with their checksum."""
        return _with_sum(number, self.job, self.state, (*self.columns, size, stored, len(self.job.steps)))


def _with_sum(number: int, job: Job, state: bytes, columns: Sequence[Any]) -> Sequence[Any]:
    if len(job.steps) > LAST_NUMBER:
        raise StoreFailed(f"job {job.id} has more than {LAST_NUMBER} steps")
    return state, *columns, state_sum(number, job.id, job.client, state, *columns)


class Numbers:
    """Numbers for new jobs, as one process after the other gives them. The writing thread alone uses them."""

    def __init__(self) -> None:
        self._last: int | None = None

    def next(self, connection: sqlite3.Connection) -> int:
        """Return a number that no job ever had."""
        last = self._last
        if last is None:
            ((last,),) = connection.execute(_LAST_NUMBER)
            if not isinstance(last, int) or last > HIGHEST_JOB // 2:
                raise StoreFailed(f"the number of the newest job is damaged; {CURE}")
        self._last = number = last + 1
        return number


def insert(connection: sqlite3.Connection, new: Addition, numbers: Numbers, usage: Usage, damages: Damages) -> Job:
    """Write a new job. Return it, or the job that is there already under its id or key."""
    job, key, number = new.job, new.job.request.idempotency_key, numbers.next(connection)
    fixed = number, job.id, job.client, key, new.request, request_sum(number, job.id, key, new.request)
    if not connection.execute(_INSERT, (*fixed, *new.changing(number, new.size, new.stored))).rowcount:
        return _kept(connection, job, damages)
    stored = new.stored
    if job.retry_of is None:
        _write_record(connection, number, (0, True, memoryview(job.request.data)))
        for record in new.steps:
            _write_record(connection, number, record)
    else:
        size, more = _insert_retry(connection, number, new)
        stored += more
        connection.execute(_UPDATE, (*new.changing(number, size, stored), number))
    usage.add(job.group, stored)
    return job


def _kept(connection: sqlite3.Connection, job: Job, damages: Damages) -> Job:
    kept = connection.execute(_KEPT, (job.id, job.client, job.request.idempotency_key)).fetchone()
    found = select(connection, kept, None, JobFields.ALL, damages) if kept else []
    if not found:
        raise StoreFailed(f"job {job.id} cannot be written, and no other has its id or its key: an index is damaged")
    return found[0]


def _write_record(connection: sqlite3.Connection, job: int, record: Record, owner: int | None = None) -> None:
    """Write a record. With an `owner`, which is the place of another one, its body is there."""
    number, done, body = record
    row = place(job, number), int(done), owner, body
    connection.execute(_RECORD, (*row, record_sum(*row)))


def _insert_retry(connection: sqlite3.Connection, number: int, new: Addition) -> tuple[int, int]:
    """Write the records of a retry. Return the size of the job, and the bytes of it that the old job does not have."""
    old, size, stored = _Old(connection, new.job.retry_of), new.size, 0
    for record, done, body in _all_records(new):
        owner = None
        if record and done and not new.whole and is_left_out(new.job.steps[record - 1]):
            owner, more = old.record(record)
            size += more
        elif done:
            owner = old.owner_of(record, body)
        _write_record(connection, number, (record, done, body if owner is None else b""), owner)
        stored += len(body) if done and owner is None else 0
    return size, stored


def _all_records(new: Addition) -> Iterator[Record]:
    yield 0, True, memoryview(new.job.request.data)
    yield from new.steps


class _Old:
    """The records of the job that a new one retries, which need not be written twice."""

    def __init__(self, connection: sqlite3.Connection, id: JobId | None) -> None:
        self._connection = connection
        rows = () if id is None else connection.execute(_OLD, (id,))
        self._records: Mapping[int, tuple[int, int]] = {number_at(at): (owner, size) for at, owner, size in rows}

    def record(self, number: int) -> tuple[int, int]:
        """Return the place of the record that has the body of this one, and its size.

        Raise `StoreFailed` if there is none.
        """
        if number not in self._records:
            raise StoreFailed("the job that is retried has been deleted meanwhile")
        return self._records[number]

    def owner_of(self, number: int, body: memoryview | bytes) -> int | None:
        """Return the place of the record that has this body, or None if there is none."""
        if number not in self._records:
            return None
        owner, size = self._records[number]
        if size != len(body):
            return None
        if size <= _COMPARED_BYTES and self._connection.execute(_BODY, (owner,)).fetchone() != (bytes(body),):
            return None
        return owner


def save(
    connection: sqlite3.Connection, job: Job, columns: tuple[Any, ...], last: Sequence[Record], usage: Usage
) -> None:
    """Write the newest snapshot of a job, given its columns and its last record."""
    there = connection.execute(_THERE if job.steps else _THERE_WITHOUT_STEPS, (job.id,)).fetchone()
    if there is None:
        raise StoreFailed(f"there is no job {job.id} in the file")
    number, was_open, *counted, last_place = there
    size, stored = (one if isinstance(one, int) else 0 for one in counted)  # they may be damaged
    done = number_at(last_place or 0)
    more_size = more = outcome_bytes(job) if was_open and job.status.finished else 0
    known: Iterable[Record] = last if len(job.steps) <= done + 1 else step_records(job, done)
    for record in known:
        step, is_done, body = record
        if step > done:
            _write_record(connection, number, record)
            if is_done:
                more_size += output_bytes(job.steps[step - 1])
                more += len(body)
    state, *others = columns
    others += [size + more_size, stored + more, len(job.steps)]
    connection.execute(_UPDATE, (*_with_sum(number, job, state, others), number))
    if more:
        usage.add(job.group, more)
