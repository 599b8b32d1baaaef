"""Jobs in an SQLite file: WAL, one writing thread with group commit, one reading thread."""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, closing
from functools import cache
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.to_thread
import msgspec

from nodekit import (
    ClientId,
    ContainerId,
    GroupId,
    Job,
    JobFields,
    JobId,
    JobQuery,
    JobRequest,
    JobStatus,
    Location,
    Outcome,
    StepRecord,
    StoreFailed,
    Unfinished,
    default_group,
)
from nodekit_sqlite._lock import OwnerLock
from nodekit_sqlite._query import BY_FINISH, BY_OPEN, HAS_FINISHED, IS_OPEN, find_query, marks
from nodekit_sqlite._schema import check_version, migrate, prepare_empty_file
from nodekit_sqlite._storage import SqliteStorage
from nodekit_sqlite._thread import ConnectionThread

_VARIABLES = 500
"""Maximum number of ids in one statement."""
_FREED_PAGES = 200
"""Number of pages of 4 KiB that a deletion gives back to the file system beyond those that it frees."""


class _State(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The fields of a job that change, without its steps."""

    accepted_at: float
    status: JobStatus
    due: ContainerId | None = None
    not_before: float | None = None
    delay_seconds: float | None = None
    timeout_seconds: float | None = None
    queue_timeout_seconds: float | None = None
    outcome: Outcome | None = None
    finished_at: float | None = None
    retry_of: JobId | None = None


class _Row(_State, frozen=True, kw_only=True, omit_defaults=True):
    """The column `state`. It includes what scheduling needs of the request, so that the request need not be read."""

    group: GroupId | None = None
    priority: int = 3
    pipeline: str = "sequence"
    origin: Location = Location.OFFCHAIN
    destination: Location = Location.OFFCHAIN


_encode = msgspec.json.Encoder().encode
_state = msgspec.json.Decoder(_State).decode
_row = msgspec.json.Decoder(_Row).decode
_request = msgspec.json.Decoder(JobRequest).decode
_record = msgspec.json.Decoder(StepRecord).decode


class SqliteTable:
    """A durable `JobTable`. The file at `path` is created if it is missing; its folder must exist."""

    def __init__(self, path: Path, *, synchronous: str = "FULL", group: int = 512, owned: bool = True) -> None:
        self._path = path
        self._synchronous = synchronous
        self._owned = owned
        self._lock = OwnerLock(path)
        self._writer = ConnectionThread(self._connect, group=group, writes=True)
        self._reader = ConnectionThread(self._connect, group=group, writes=False)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.callback(self._lock.release)
            await anyio.to_thread.run_sync(self._open)
            for thread in (self._writer, self._reader):
                await thread.start()
                stack.push_async_callback(thread.stop)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self._stack.aclose()

    def _open(self) -> None:
        """Lock and prepare the file. This waits for the disk, so it runs in a thread while the node's loop goes on."""
        if self._owned:
            self._lock.acquire()
        self._prepare()

    def _prepare(self) -> None:
        try:
            if not self._owned:
                with closing(self._connect()) as connection:
                    return check_version(connection, str(self._path))
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
            prepare_empty_file(self._path)
            with closing(self._connect()) as connection:
                migrate(connection, str(self._path))
        except (OSError, sqlite3.Error) as error:
            raise StoreFailed(f"cannot open {self._path}: {error}") from error

    def _connect(self) -> sqlite3.Connection:
        # mode=rw: only its owner creates the file, in `_prepare`; WAL needs write access for readers too
        address = f"{self._path.absolute().as_uri()}?mode=rw"
        connection = sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False, timeout=10)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        except BaseException:
            connection.close()  # otherwise the file stays open until the garbage collector runs
            raise
        return connection

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        rows = [
            (
                (job.id, job.client, job.request.idempotency_key, *_columns(job)),
                _encode(job.request),
                [*_records(job, 0)],
            )
            for job in jobs
        ]

        def write(connection: sqlite3.Connection) -> list[Job]:
            return [_insert(connection, job, *row) for job, row in zip(jobs, rows, strict=True)]

        return await self._writer.call(write)

    async def save(self, job: Job) -> None:
        state = _columns(job)
        last = list(_records(job, len(job.steps) - 1)) if job.steps else []

        def write(connection: sqlite3.Connection) -> None:
            number, done = connection.execute(_DONE, (job.id,)).fetchone() or (None, 0)
            if number is None:
                raise StoreFailed(f"job {job.id} is not in {self._path}")
            connection.execute(_UPDATE, (*state, number))
            records = last if len(job.steps) <= done + 1 else list(_records(job, done))
            connection.executemany(_RECORD, [(number, *record) for record in records if record[0] > done])

        await self._writer.call(write)

    async def get(
        self, ids: Sequence[JobId], *, client: ClientId | None = None, fields: JobFields = JobFields.ALL
    ) -> list[Job]:
        unique = list(dict.fromkeys(ids))

        def read(connection: sqlite3.Connection) -> dict[JobId, Job]:
            return {job.id: job for some in _slices(unique) for job in _select(connection, some, client, fields)}

        jobs = await self._reader.call(read) if unique else {}
        return [jobs[id] for id in unique if id in jobs]

    async def find(self, query: JobQuery) -> list[JobId]:
        statement, values = find_query(query)
        return await self._reader.call(lambda c: [id for (id,) in c.execute(statement, values)])

    async def delete(self, ids: Sequence[JobId]) -> int:
        def write(connection: sqlite3.Connection) -> int:
            return sum(_delete(connection, some) for some in _slices(list(dict.fromkeys(ids))))

        return await self._writer.call(write)

    def storage(self, namespace: str) -> SqliteStorage:
        """Return the records of a plugin."""
        return SqliteStorage(namespace, self._writer, self._reader)

    async def last_finish_number(self) -> int:
        """Return the highest number that a job of this file ever had."""
        return await self._reader.call(lambda c: int(c.execute(_LAST_NUMBER).fetchone()[0]))

    async def last_surplus(self, keep: int) -> int | None:
        rows = await self._reader.call(lambda c: c.execute(_LAST_SURPLUS, (keep,)).fetchall())
        return rows[0][0] if rows else None

    async def unfinished(self) -> list[Unfinished]:
        def read(connection: sqlite3.Connection) -> list[Unfinished]:
            return [_unfinished(*row) for row in connection.execute(_OPEN)]

        return await self._reader.call(read)


_ROW = """
    INSERT OR IGNORE INTO jobs (id, client, idempotency_key, status, open, finish_number, error_container, error, state)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_RECORD = "INSERT OR REPLACE INTO records (job, number, done, body) VALUES (?, ?, ?, ?)"
_DONE = """
    SELECT number, (SELECT coalesce(max(r.number), 0) FROM records r WHERE r.job = jobs.number AND r.done = 1)
    FROM jobs WHERE id = ?
"""
_UPDATE = """
    UPDATE jobs SET status = ?, open = ?, finish_number = ?, error_container = ?, error = ?, state = ? WHERE number = ?
"""
_KEPT = "SELECT id FROM jobs WHERE id = ? UNION ALL SELECT id FROM jobs WHERE client = ? AND idempotency_key = ?"
_LAST_NUMBER = "SELECT max(highest, coalesce((SELECT max(finish_number) FROM jobs), 0)) FROM deleted_numbers"
_LAST_SURPLUS = f"""
    SELECT finish_number FROM jobs {BY_FINISH} WHERE {HAS_FINISHED} ORDER BY finish_number DESC LIMIT 1 OFFSET ?
"""  # noqa: S608 - our own texts only
_OPEN = f"SELECT id, client, state FROM jobs {BY_OPEN} WHERE {IS_OPEN} ORDER BY id"  # noqa: S608 - our own texts only


def _columns(job: Job) -> tuple[Any, ...]:
    """Return the values of the columns that change."""
    failed = (None, None) if job.error is None else (job.error.container, job.error.error)
    return job.status, not job.status.finished, job.finish_number, *failed, _encode_state(job)


def _encode_state(job: Job) -> bytes:
    request = job.request
    return _encode(
        _Row(
            group=request.group,
            priority=request.priority,
            pipeline=request.pipeline,
            origin=request.origin,
            destination=request.destination,
            **{field: getattr(job, field) for field in _State.__struct_fields__},
        )
    )


def _records(job: Job, first: int) -> Iterator[tuple[int, bool, bytes]]:
    for number, record in enumerate(islice(job.steps, first, None), first + 1):
        yield number, record.result is not None, _encode(record)


def _insert(
    connection: sqlite3.Connection, job: Job, row: Sequence[Any], request: bytes, records: Iterable[Sequence[Any]]
) -> Job:
    inserted = connection.execute(_ROW, row)
    if not inserted.rowcount:
        (id,) = connection.execute(_KEPT, (job.id, job.client, job.request.idempotency_key)).fetchone()
        return next(_select(connection, [id], None, JobFields.ALL))
    number = inserted.lastrowid
    connection.execute(_RECORD, (number, 0, True, request))
    connection.executemany(_RECORD, [(number, *record) for record in records])
    return job


@cache
def _selection(fields: JobFields) -> str:
    """Return the beginning of a statement that reads these parts of jobs: its columns and tables."""
    if fields is JobFields.STATE:
        return "SELECT id, client, finish_number, state, NULL, NULL FROM jobs"
    columns = "SELECT id, client, finish_number, state, records.number, body FROM jobs"
    if JobFields.REQUEST in fields:  # each job has one, under number 0
        records, steps = "JOIN records ON job = jobs.number", "records.number > 0"
    else:
        records, steps = "LEFT JOIN records ON job = jobs.number AND records.number > 0", "1"
    if JobFields.STEPS in fields:
        return f"{columns} {records}"
    if JobFields.LAST_STEP not in fields:
        return f"{columns} {records} AND NOT {steps}"
    last = "SELECT max(number) FROM records last WHERE last.job = jobs.number"
    return f"{columns} {records} AND (NOT {steps} OR records.number = ({last}))"


def _select(
    connection: sqlite3.Connection, ids: Sequence[JobId], client: ClientId | None, fields: JobFields
) -> Iterator[Job]:
    mine = "" if client is None else "AND client = ?"
    query = f"{_selection(fields)} WHERE id IN ({marks(ids)}) {mine} ORDER BY jobs.number, 5"
    found: dict[JobId, tuple[ClientId, int | None, bytes, list[tuple[int, bytes]]]] = {}
    values = [*ids, *([] if client is None else [client])]
    for id, owner, finish_number, state, number, body in connection.execute(query, values):
        records = found.setdefault(id, (owner, finish_number, state, []))[3]
        if body is not None:
            records.append((number, body))
    for id, (owner, finish_number, state, records) in found.items():
        whole = bool(records) and records[0][0] == 0
        yield Job(
            id=id,
            request=_request(records.pop(0)[1]) if whole else _unread_request(owner, _row(state)),
            steps=tuple([_record(body) for _, body in records]),
            finish_number=finish_number,
            **msgspec.structs.asdict(_state(state)),
        )


def _unread_request(client: ClientId, row: _Row) -> JobRequest:
    return JobRequest(
        containers=(),
        data=msgspec.Raw(),
        client=client,
        group=row.group,
        priority=row.priority,
        pipeline=row.pipeline,
        origin=row.origin,
        destination=row.destination,
    )


def _unfinished(id: JobId, client: ClientId, state: bytes) -> Unfinished:
    row = _row(state)
    return Unfinished(
        id=id,
        group=row.group or default_group(client),
        priority=row.priority,
        due=row.due or "",
        pipeline=row.pipeline,
        onchain=row.origin is Location.ONCHAIN,
        streams=row.destination is Location.STREAM,
        not_before=row.not_before,
        delay_seconds=row.delay_seconds,
        timeout_seconds=row.timeout_seconds,
        queue_timeout_seconds=row.queue_timeout_seconds,
    )


def _delete(connection: sqlite3.Connection, ids: Sequence[JobId]) -> int:
    before = _free_pages(connection)
    finished = f"FROM jobs WHERE open = 0 AND id IN ({marks(ids)})"
    connection.execute(f"DELETE FROM records WHERE job IN (SELECT number {finished})", ids)  # noqa: S608
    highest = f"max(highest, coalesce((SELECT max(finish_number) {finished}), 0))"
    connection.execute(f"UPDATE deleted_numbers SET highest = {highest}", ids)  # noqa: S608
    deleted = connection.execute(f"DELETE {finished}", ids).rowcount
    after = _free_pages(connection)
    for _ in range(min(after, after - before + _FREED_PAGES)):  # sqlite3 takes one step of this, which frees one page
        connection.execute("PRAGMA incremental_vacuum")
    return deleted


def _free_pages(connection: sqlite3.Connection) -> int:
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    return int(free)


def _slices(ids: Sequence[JobId]) -> Iterator[Sequence[JobId]]:
    for start in range(0, len(ids), _VARIABLES):
        yield ids[start : start + _VARIABLES]
