"""Jobs read from the file. Each row is checked; what is damaged fails one job and hides no other."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from nodekit import (
    ClientId,
    ContainerOutput,
    GroupId,
    Job,
    JobFields,
    JobId,
    JobRequest,
    StepRecord,
    StoreFailed,
    Unfinished,
    default_group,
)
from nodekit_sqlite._damage import DAMAGED, Damages, failed_job, is_damage
from nodekit_sqlite._places import OF_JOB, OF_REQUEST, OF_STEP, number_at
from nodekit_sqlite._query import BY_OPEN, IS_OPEN, marks
from nodekit_sqlite._rows import (
    decode_record,
    decode_request,
    decode_row,
    decode_state,
    group_of,
    record_without_output,
    unfinished,
    unread_request,
)
from nodekit_sqlite._sums import DamagedRecord, check_record, check_request, check_state

CHANGING = "status, open, finish_number, error_container, error, size, stored, steps"
"""The columns of a job that change, beside its `state`."""
JOB = f"jobs.number, id, client, state, {CHANGING}"
"""The columns of a job that `state_sum` covers."""
FINISH_NUMBER, SIZE, STEPS = 6, 9, 11
"""Places of columns in `JOB`; `state_sum` follows."""
_JOB_COLUMNS = 12

_RECORD = """
    records.place, records.done, records.owner, records.body, records.sum,
    owned.done, owned.owner, owned.body, owned.sum
"""
_OWNED = "LEFT JOIN records AS owned ON owned.place = records.owner"
_REQUEST = f"CASE WHEN records.place = {OF_REQUEST} THEN request END, idempotency_key, request_sum"


def _selection(fields: JobFields) -> str:
    """Return the beginning of a statement that reads these parts of jobs: its columns and tables."""
    if fields is JobFields.STATE:
        return f"SELECT {JOB}, state_sum, NULL FROM jobs"  # noqa: S608 - our own texts only
    columns = f"SELECT {JOB}, state_sum, {_RECORD}, {_REQUEST} FROM jobs"  # noqa: S608 - our own texts only
    last = f"(SELECT max(place) FROM records AS last WHERE last.place {OF_STEP})"  # noqa: S608
    if JobFields.RECORDS in fields:
        places = OF_JOB if JobFields.REQUEST in fields else OF_STEP
    elif JobFields.LAST_STEP in fields:
        places = f"IN ({OF_REQUEST}, {last})" if JobFields.REQUEST in fields else f"= {last}"
    else:
        places = f"= {OF_REQUEST}"
    return f"{columns} LEFT JOIN records ON records.place {places} {_OWNED}"


class _Parts(NamedTuple):
    """The parts of jobs that are read: the beginning of the statement, and what it gives.

    - `is_light`: True if no output but the last one is kept.
    """

    selection: str
    request: bool
    last_step: bool
    records: bool
    is_light: bool


@cache
def _parts(fields: JobFields) -> _Parts:
    return _Parts(
        _selection(fields),
        request=JobFields.REQUEST in fields,
        last_step=JobFields.LAST_STEP in fields,
        records=JobFields.RECORDS in fields,
        is_light=JobFields.RECORDS in fields and JobFields.STEPS not in fields,
    )


def select(
    connection: sqlite3.Connection,
    ids: Sequence[JobId],
    client: ClientId | None,
    fields: JobFields,
    damages: Damages,
) -> list[Job]:
    """Return the jobs among `ids` that belong to the client. One that is damaged has failed, and says so."""
    try:
        jobs = list(_select(connection, ids, client, fields))
        if client is not None and len(jobs) < len(ids):
            _check_owners(connection, ids, client)
        return jobs
    except Exception as error:
        if not is_damage(error):
            raise
        if len(ids) > 1:
            return [job for id in ids for job in select(connection, [id], client, fields, damages)]
        return list(_damaged(connection, ids[0], client, damages, error))


def _select(
    connection: sqlite3.Connection, ids: Sequence[JobId], client: ClientId | None, fields: JobFields
) -> Iterator[Job]:
    mine = "" if client is None else "AND client = ?"
    parts = _parts(fields)
    query = f"{parts.selection} WHERE id IN ({marks(ids)}) {mine} ORDER BY jobs.number, 14"
    found: _Found | None = None
    for row in connection.execute(query, [*ids, *([] if client is None else [client])]):
        if found is None or row[0] != found.number:
            if found is not None:
                yield found.job()
            found = _Found(row[:_JOB_COLUMNS], row[_JOB_COLUMNS], parts)
        if row[_JOB_COLUMNS + 1] is not None:
            found.take(*row[_JOB_COLUMNS + 1 :])
    if found is not None:
        yield found.job()


def _check_owners(connection: sqlite3.Connection, ids: Sequence[JobId], client: ClientId) -> None:
    """Raise `DamagedRecord` if one of the jobs only seems to belong to somebody else."""
    query = f"SELECT {JOB}, state_sum FROM jobs WHERE id IN ({marks(ids)}) AND client IS NOT ?"  # noqa: S608
    for *columns, sum in connection.execute(query, [*ids, client]):
        check_state(sum, *columns)


class _Found:
    """The parts of a job, record by record. Raise `DamagedRecord` for parts that are not as they were written."""

    __slots__ = ("_columns", "_last", "_number", "_parts", "_steps", "number", "request")

    def __init__(self, columns: Sequence[Any], sum: int, parts: _Parts) -> None:
        check_state(sum, *columns)
        self.number: int = columns[0]
        self._columns, self._parts = columns, parts
        self.request: JobRequest | None = None
        self._steps: list[StepRecord] = []
        self._number = 0
        """Number of the last record."""
        self._last: tuple[int, bytes] | None = None

    def take(self, place: int, done: int, owner: int | None, body: bytes, sum: int, *owned_and_request: Any) -> None:
        """Take the next record: the data with the rest of the request, or a step."""
        check_record(sum, place, done, owner, body)
        *owned, request, key, sum_of_request = owned_and_request
        if owner is not None:
            body = _owned_body(owner, *owned)
        self._number = number = number_at(place)
        if not number:
            check_request(sum_of_request, self.number, self._columns[1], key, request)
            self.request = replace(decode_request(request), data=msgspec.Raw(body))
        elif not self._parts.is_light:
            self._steps.append(decode_record(body))
        else:
            step = record_without_output(body)
            if isinstance(step.result, ContainerOutput):
                self._last = len(self._steps), body
            self._steps.append(step)

    def job(self) -> Job:
        _, id, client, state, *_ = self._columns
        self._check_complete()
        if self._last is not None:
            place, body = self._last
            self._steps[place] = decode_record(body)
        row = decode_row(state)
        return Job(
            id=id,
            request=unread_request(client, row) if self.request is None else self.request,
            accepted_at=row.accepted_at,
            status=row.status,
            due=row.due,
            not_before=row.not_before,
            delay_seconds=row.delay_seconds,
            timeout_seconds=row.timeout_seconds,
            queue_timeout_seconds=row.queue_timeout_seconds,
            steps=tuple(self._steps),
            outcome=row.outcome,
            finished_at=row.finished_at,
            retry_of=row.retry_of,
            finish_number=self._columns[FINISH_NUMBER],
        )

    def _check_complete(self) -> None:
        parts = self._parts
        steps = self._columns[STEPS] if parts.last_step else 0
        number = steps if parts.records else min(steps, 1)
        if self._number != steps or len(self._steps) != number:
            raise DamagedRecord("a record of a step is missing")
        if parts.request and self.request is None:
            raise DamagedRecord("the record of the request is missing")


def _owned_body(place: int, done: int, owner: int | None, body: Any, sum: int) -> bytes:
    """Return the body of a record that belongs to another job."""
    check_record(sum, place, done, owner, body)
    found: bytes = body
    return found


# -- damaged jobs --------------------------------------------------------------------------------------


def _damaged(
    connection: sqlite3.Connection, id: JobId, client: ClientId | None, damages: Damages, error: Exception
) -> Iterator[Job]:
    """Yield a job that cannot be read as one that failed, unless it is another client's."""
    columns: Sequence[Any] = ()
    try:
        query = f"SELECT {JOB}, state_sum FROM jobs WHERE id = ?"  # noqa: S608 - our own texts only
        if (row := connection.execute(query, (id,)).fetchone()) is None:
            return
        columns = row[:-1]
        check_state(row[-1], *columns)
    except Exception as other:
        if not is_damage(other):
            raise
        yield _unknown(id, client, columns)
    else:
        _, _, owner, state, *_ = columns
        if client not in (None, owner):
            return
        request = _request_of(connection, columns[0]) or unread_request(owner, decode_row(state))
        fields = msgspec.structs.asdict(decode_state(state))
        yield failed_job(id, request, fields, columns[FINISH_NUMBER])
    damages.of_job(id, error)


def _unknown(id: JobId, client: ClientId | None, columns: Sequence[Any]) -> Job:
    """Return a job whose row cannot be read. Nobody knows whose it is, so whoever has its id learns that."""
    request = unread_request(client or "", decode_row(b'{"accepted_at": 0, "status": "failed"}'))
    return failed_job(id, request, {}, columns[FINISH_NUMBER] if columns else None)


def _request_of(connection: sqlite3.Connection, number: int) -> JobRequest | None:
    """Return the request of a damaged job, if it can be read: it may be tried again."""
    try:
        row: Sequence[Any] | None = connection.execute(_REQUEST_ROW, (number,)).fetchone()
        if row is None:
            return None
        id, at, done, owner, body, sum, *owned, request, key, sum_of_request = row
        check_request(sum_of_request, number, id, key, request)
        check_record(sum, at, done, owner, body)
        data = body if owner is None else _owned_body(owner, *owned)
        return replace(decode_request(request), data=msgspec.Raw(data))
    except Exception as error:
        if not is_damage(error):
            raise
        return None


_REQUEST_ROW = f"""
    SELECT id, {_RECORD}, {_REQUEST} FROM jobs JOIN records ON records.place = {OF_REQUEST} {_OWNED}
    WHERE jobs.number = ?
"""  # noqa: S608 - our own texts only


# -- other reads ---------------------------------------------------------------------------------------


def read_sizes(connection: sqlite3.Connection, ids: Sequence[JobId]) -> Iterator[tuple[JobId, int]]:
    """Yield the jobs among `ids`, each with its size. A damaged one has none: its payloads are not read."""
    query = f"SELECT {JOB}, state_sum FROM jobs WHERE id IN ({marks(ids)})"  # noqa: S608 - our own texts only
    sizes: dict[JobId, int] = {}
    try:
        for *columns, sum in connection.execute(query, ids):
            check_state(sum, *columns)
            sizes[columns[1]] = columns[SIZE]
        yield from sizes.items()
    except Exception as error:
        if not is_damage(error):
            raise
        if len(ids) > 1:
            for id in ids:
                yield from read_sizes(connection, [id])
        else:
            yield ids[0], 0


def read_steps(connection: sqlite3.Connection, id: JobId, first: int, most_bytes: int) -> list[StepRecord]:
    """Return the steps of a job from the index `first` on: as many as have `most_bytes`, at least one.

    Raise `StoreFailed` if one of them is damaged.
    """
    steps: list[StepRecord] = []
    size = 0
    try:
        for at, length in connection.execute(_STEP_SIZES, (id, first)).fetchall():
            size += length
            if steps and size > most_bytes:
                break
            ((done, owner, body, sum),) = connection.execute(_BODY, (at,))
            check_record(sum, at, done, owner, body)
            steps.append(decode_record(body))
    except Exception as error:
        if not is_damage(error):
            raise
        raise StoreFailed(f"job {id}: {DAMAGED}") from error
    return steps


_STEP_SIZES = f"""
    SELECT coalesce(records.owner, records.place), length(coalesce(owned.body, records.body))
    FROM jobs JOIN records ON records.place {OF_STEP} {_OWNED}
    WHERE id = ? AND records.place > ({OF_REQUEST}) + ? ORDER BY records.place
"""  # noqa: S608 - our own texts only
_BODY = "SELECT done, owner, body, sum FROM records WHERE place = ?"


# -- unfinished jobs -----------------------------------------------------------------------------------

_OPEN = f"SELECT {JOB}, state_sum FROM jobs {BY_OPEN} WHERE {IS_OPEN} ORDER BY id"  # noqa: S608 - our own texts only
_OPEN_NUMBERS = (
    f"SELECT number, id FROM jobs {BY_OPEN} WHERE {IS_OPEN} ORDER BY client, id",  # noqa: S608
    f"SELECT number, id FROM jobs {BY_OPEN} WHERE {IS_OPEN} ORDER BY client DESC, id DESC",  # noqa: S608
    f"SELECT number, id FROM jobs NOT INDEXED WHERE {IS_OPEN} ORDER BY number",  # noqa: S608
    f"SELECT number, id FROM jobs NOT INDEXED WHERE {IS_OPEN} ORDER BY number DESC",  # noqa: S608
)
"""Statements that find the unfinished jobs from both ends of the index and of the table, up to what is damaged."""
_ROW = f"SELECT {JOB}, state_sum FROM jobs WHERE jobs.number = ?"  # noqa: S608 - our own texts only


def read_unfinished(connection: sqlite3.Connection, damages: Damages) -> list[Unfinished]:
    """Return the facts for scheduling the unfinished jobs, oldest first."""
    try:
        rows = connection.execute(_OPEN).fetchall()
        return [_unfinished(row, damages) for row in rows]
    except Exception as error:
        if not is_damage(error):
            raise
        damages.of_part("the table of jobs", error)
    found: dict[int, JobId] = {}
    for statement in _OPEN_NUMBERS:
        with suppress(sqlite3.DatabaseError):
            found.update(connection.execute(statement))
    return sorted((_unfinished_one(connection, *item, damages) for item in found.items()), key=lambda one: one.id)


def _unfinished_one(connection: sqlite3.Connection, number: int, id: JobId, damages: Damages) -> Unfinished:
    try:
        if (row := connection.execute(_ROW, (number,)).fetchone()) is not None:
            return _unfinished(row, damages)
    except Exception as error:
        if not is_damage(error):
            raise
    return _cannot_run(id, default_group(""))


def _unfinished(row: Sequence[Any], damages: Damages) -> Unfinished:
    *columns, sum = row
    try:
        check_state(sum, *columns)
        return unfinished(columns[1], columns[2], columns[SIZE], columns[3])
    except Exception as error:
        if not is_damage(error):
            raise
        return _cannot_run(str(columns[1]), default_group(str(columns[2])))


def _cannot_run(id: JobId, group: GroupId) -> Unfinished:
    """Return a damaged job. Like a stream, it cannot go on, and the store ends it as soon as it is open."""
    return Unfinished(id=id, group=group, priority=0, due="", streams=True)


def group_in(client: Any, state: Any) -> GroupId:
    """Return the group of a job, given two of its columns, which may be damaged."""
    try:
        return group_of(client, state)
    except (msgspec.MsgspecError, TypeError):
        return default_group(str(client))
