"""Changed jobs in the file, and the rows that new and changed jobs have in common."""

import sqlite3
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, TypeAlias

from nodekit import Job, JobId, StoreFailed, outcome_bytes, result_bytes
from nodekit_sqlite._many_rows import ROWS, RowsStatement, blob
from nodekit_sqlite._open_rows import OpenRow, OpenRows
from nodekit_sqlite._places import LAST_NUMBER, OF_JOB, number_at, place
from nodekit_sqlite._rows import changing_columns, step_records
from nodekit_sqlite._sums import record_sum, state_sum
from nodekit_sqlite._usage import Usage

Record: TypeAlias = tuple[int, bool, bytes | memoryview]
"""The number of a record, True if it will not change any more, and its body."""

RECORDS = RowsStatement(
    f"INSERT OR REPLACE INTO records (place, done, owner, body, sum) VALUES {ROWS}",  # noqa: S608 - our own texts only
    columns=5,
    large=3,
    nullable={2},
)


def _updates_of(columns: str, nullable: Collection[int] = ()) -> RowsStatement:
    """Return the statement that sets these columns of jobs. Its rows begin with the number of a job."""
    new = ", ".join(f"new.column{place}" for place, _ in enumerate(columns.split(", "), 2))
    text = f"UPDATE jobs SET ({columns}) = ({new}) FROM (VALUES {ROWS}) AS new WHERE number = new.column1"  # noqa: S608
    return RowsStatement(text, columns=columns.count(",") + 2, large=1, nullable=nullable)


UPDATES = _updates_of(
    "state, status, open, finish_number, error_container, error, size, stored, steps, state_sum", nullable={4, 5, 6}
)
_STEP_UPDATES = _updates_of("state, size, stored, steps, state_sum")
"""The same for jobs that go on as before. SQLite writes each index anew of which a column is named, changed or not."""
_LAST = f"SELECT place FROM records WHERE place {OF_JOB} AND done = 1 ORDER BY place DESC LIMIT 1"  # noqa: S608
_THERE = f"SELECT open, status, number, size, stored, ({_LAST}) FROM jobs WHERE id = ?"  # noqa: S608


def record_row(job: int, record: Record, owner: int | None = None) -> Sequence[Any]:
    """Return the row of a record. With an `owner`, which is the place of another one, its body is there."""
    number, done, body = record
    at = place(job, number)
    return at, int(done), owner, blob(body), record_sum(at, int(done), owner, body)


def with_sum(number: int, job: Job, state: bytes, columns: Sequence[Any]) -> Sequence[Any]:
    """Return the columns of a job that change, with their checksum."""
    if len(job.steps) > LAST_NUMBER:
        raise StoreFailed(f"job {job.id} has more than {LAST_NUMBER} steps")
    return blob(state), *columns, state_sum(number, job.id, job.client, state, *columns)


class Change:
    """The newest snapshot of a job, encoded before the writing thread begins with it."""

    __slots__ = ("columns", "job", "last", "state")

    def __init__(self, job: Job) -> None:
        self.job = job
        self.state, *self.columns = changing_columns(job)
        self.last: Sequence[Record] = list(step_records(job, len(job.steps) - 1)) if job.steps else ()
        """The last record. Those before it are in the file already, as a rule."""


class _Rows(NamedTuple):
    """The rows of several changes: records, and jobs of which a step has ended, and all other ones."""

    records: list[Sequence[Any]]
    steps: list[Sequence[Any]]
    others: list[Sequence[Any]]


class Saves:
    """The function that writes changed jobs, those of many callers together."""

    def __init__(self, rows: OpenRows, usage: Usage) -> None:
        self._rows, self._usage = rows, usage

    def __call__(self, connection: sqlite3.Connection, changes: Sequence[Change]) -> Sequence[None]:
        """Write the newest snapshots of jobs."""
        if len({change.job.id for change in changes}) < len(changes):  # a save whose caller has gone, and the next one
            return [None for change in changes for _ in self(connection, [change])]
        rows = _Rows([], [], [])
        for change in changes:
            self._add(connection, change, rows)
        RECORDS.write(connection, rows.records)
        written = _STEP_UPDATES.write(connection, rows.steps) + UPDATES.write(connection, rows.others)
        if written < len(changes):  # then each is written alone, and one of them fails
            raise StoreFailed(f"there is no job {changes[0].job.id} in the file")
        return [None] * len(changes)

    def _add(self, connection: sqlite3.Connection, change: Change, rows: _Rows) -> None:
        """Add the row of a job with its new columns, and its new records."""
        job, status = change.job, change.columns[0]
        row, was_open = self._row(connection, job.id)
        number, _, size, stored, done = row
        more_size = more = outcome_bytes(job.outcome) if was_open and job.status.finished else 0
        for record in change.last if len(job.steps) <= done + 1 else step_records(job, done):
            step, is_done, body = record
            if step > row.done:
                rows.records.append(record_row(number, record))
                if is_done:
                    more_size += result_bytes(job.steps[step - 1].result)
                    more += len(body)
                    done = step
        size, stored = size + more_size, stored + more
        if more:
            self._usage.add(job.group, more)
        if job.status.finished:
            self._rows.drop(job.id)
        else:
            self._rows.put(job.id, OpenRow(number, status, size, stored, done))
        state, *unchanged, size, stored, steps, sum = with_sum(
            number, job, change.state, (*change.columns, size, stored, len(job.steps))
        )
        if status == row.status and not job.status.finished:
            rows.steps.append((number, state, size, stored, steps, sum))
        else:
            rows.others.append((number, state, *unchanged, size, stored, steps, sum))

    def _row(self, connection: sqlite3.Connection, id: JobId) -> tuple[OpenRow, bool]:
        """Return the row of a job as it was written last, and True if it was unfinished."""
        if (known := self._rows.get(id)) is not None:
            return known, True
        there = connection.execute(_THERE, (id,)).fetchone()
        if there is None:
            raise StoreFailed(f"there is no job {id} in the file")
        is_open, status, number, *counted, last_place = there
        size, stored = (one if isinstance(one, int) else 0 for one in counted)  # they may be damaged
        return OpenRow(number, status, size, stored, number_at(last_place or 0)), bool(is_open)
