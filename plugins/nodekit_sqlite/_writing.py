"""New jobs in the file. What writes runs inside a transaction of the writing thread."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, groupby, islice
from typing import Any

from nodekit import Job, JobFields, JobId, StoreFailed, outcome_bytes
from nodekit_sqlite._damage import CURE, Damages
from nodekit_sqlite._many_rows import ROWS, RowsStatement, blob
from nodekit_sqlite._open_rows import OpenRow, OpenRows
from nodekit_sqlite._places import HIGHEST_JOB, OF_JOB, number_at
from nodekit_sqlite._reading import select
from nodekit_sqlite._rows import changing_columns, is_left_out, request_row, step_records
from nodekit_sqlite._saving import RECORDS, UPDATES, Record, record_row, with_sum
from nodekit_sqlite._sums import request_sum
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
_JOBS = RowsStatement(
    f"""
    INSERT OR IGNORE INTO jobs (
        number, id, client, idempotency_key, request, request_sum,
        state, status, open, finish_number, error_container, error, size, stored, steps, state_sum
    ) VALUES {ROWS}
    """,  # noqa: S608 - marks only
    columns=16,
    large=6,
    nullable={3, 9, 10, 11},
)
_INSERTED = "SELECT number FROM jobs WHERE number BETWEEN ? AND ?"
_KEPT = "SELECT id FROM jobs WHERE id = ? UNION ALL SELECT id FROM jobs WHERE client = ? AND idempotency_key = ?"
_OLD = f"""
    SELECT records.place, coalesce(records.owner, records.place),
        CASE WHEN records.owner IS NULL THEN length(records.body) ELSE length(owned.body) END
    FROM jobs JOIN records ON records.place {OF_JOB} AND records.done = 1
        LEFT JOIN records AS owned ON owned.place = records.owner
    WHERE jobs.id = ?
"""  # noqa: S608 - our own texts only
_BODY = "SELECT body FROM records WHERE place = ?"


class Addition:
    """The rows of a new job, encoded before the writing thread begins with them.

    Those of a retry are encoded one by one as they are written: most of them are only compared.
    """

    def __init__(self, job: Job, *, whole: bool = False) -> None:
        """`whole` says that no output of the job is left out."""
        self.job, self.whole = job, whole
        self.state, *self.columns = changing_columns(job)
        self.request, self.size = request_row(job.request), job.payload_bytes
        self.stored = JOB_BYTES + len(self.request) + outcome_bytes(job.outcome)
        """Bytes that are written for the job; for a retry, without those of its records."""
        self.steps: Sequence[Record] = ()
        if job.retry_of is None:
            self.steps = list(step_records(job, 0))
            self.stored += len(memoryview(job.request.data)) + sum(len(body) for _, done, body in self.steps if done)

    def row(self, number: int) -> Sequence[Any]:
        """Return the row of the job with this number."""
        job, key = self.job, self.job.request.idempotency_key
        sum = request_sum(number, job.id, key, self.request)
        return number, job.id, job.client, key, blob(self.request), sum, *self.changing(number, self.size, self.stored)

    def changing(self, number: int, size: int, stored: int) -> Sequence[Any]:
        """Return the columns that change, with their checksum."""
        return with_sum(number, self.job, self.state, (*self.columns, size, stored, len(self.job.steps)))


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


class Inserts:
    """The function that writes new jobs, those of many callers together."""

    def __init__(self, rows: OpenRows, usage: Usage, damages: Damages) -> None:
        self._numbers, self._rows, self._usage, self._damages = Numbers(), rows, usage, damages

    def __call__(self, connection: sqlite3.Connection, calls: Sequence[Sequence[Addition]]) -> Sequence[list[Job]]:
        """Write new jobs. Return them, or the jobs that are there already under their ids or keys."""
        jobs: list[Job] = []
        new = chain.from_iterable(calls)
        for _, some in groupby(
            new, lambda one: one.job.retry_of is None
        ):  # a retry needs the records of those before it
            jobs += self._insert(connection, list(some))
        kept = iter(jobs)
        return [list(islice(kept, len(call))) for call in calls]

    def _insert(self, connection: sqlite3.Connection, new: Sequence[Addition]) -> list[Job]:
        """Write some jobs: retries, or jobs of which none is one."""
        numbered = {self._numbers.next(connection): one for one in new}
        written = numbered
        if _JOBS.write(connection, [one.row(number) for number, one in numbered.items()]) < len(new):
            there = {number for (number,) in connection.execute(_INSERTED, (min(numbered), max(numbered)))}
            written = {number: one for number, one in numbered.items() if number in there}
        self._write_records(connection, written)
        return [
            one.job if number in written else _kept(connection, one.job, self._damages)
            for number, one in numbered.items()
        ]

    def _write_records(self, connection: sqlite3.Connection, written: Mapping[int, Addition]) -> None:
        records: list[Sequence[Any]] = []
        for number, new in written.items():
            job, size, stored = new.job, new.size, new.stored
            if job.retry_of is None:
                records.append(record_row(number, (0, True, memoryview(job.request.data))))
                records += [record_row(number, record) for record in new.steps]
            else:
                size, more = _insert_retry(connection, number, new)
                stored += more
                UPDATES.write(connection, [(number, *new.changing(number, size, stored))])
            self._usage.add(job.group, stored)
            if not job.status.finished:
                self._rows.put(job.id, OpenRow(number, str(job.status), size, stored, job.ended_steps))
        RECORDS.write(connection, records)


def _kept(connection: sqlite3.Connection, job: Job, damages: Damages) -> Job:
    kept = connection.execute(_KEPT, (job.id, job.client, job.request.idempotency_key)).fetchone()
    found = select(connection, kept, None, JobFields.ALL, damages) if kept else []
    if not found:
        raise StoreFailed(f"job {job.id} cannot be written, and no other has its id or its key: an index is damaged")
    return found[0]


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
        RECORDS.write(connection, [record_row(number, (record, done, body if owner is None else b""), owner)])
        stored += len(body) if done and owner is None else 0
    return size, stored


def _all_records(new: Addition) -> Iterator[Record]:
    yield 0, True, memoryview(new.job.request.data)
    yield from step_records(new.job, 0)  # anew each time: a group that fails is written again


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
