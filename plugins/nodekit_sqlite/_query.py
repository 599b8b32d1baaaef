"""The statements that find jobs, written so that they read no more of the file than they must.

A search may have to look at many jobs to find a few. It looks at a slice of them at a time, so that others get their
turn, and nobody reads for long for a caller who has gone.
"""

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from nodekit import UNFINISHED, UNSUCCESSFUL, Cursor, JobId, JobQuery, JobStatus
from nodekit_sqlite._damage import is_damage

SLICE_ROWS = 10_000
"""Number of jobs that a search looks at in one turn: some ten milliseconds."""

# the exact conditions of the partial indexes: SQLite uses such an index only if the statement contains its condition
IS_OPEN = "open = 1"
HAS_FAILED = "status IN ('failed', 'cancelled')"
HAS_FINISHED = "finish_number IS NOT NULL"

# the indexes that SQLite would not choose by itself, because it need not sort by another one, or estimates wrongly
BY_OPEN = "INDEXED BY jobs_open"
BY_FAILED = "INDEXED BY jobs_failed"
BY_FAILED_OF_ALL = "INDEXED BY jobs_failed_of_all"
BY_FINISH = "INDEXED BY jobs_finished"

HIGHEST = 10**18
"""Number above all finish numbers: cursors have 18 digits."""

_ORDERS = {"oldest": "id", "newest": "id DESC", "finished": "finish_number"}


class Slice(msgspec.Struct, frozen=True):
    """The jobs that a search found in one turn.

    - `next`: Cursor behind which the search goes on; None: there are no more jobs.
    """

    ids: Sequence[JobId]
    next: Cursor | None


class _Parts(msgspec.Struct, frozen=True):
    """The parts of a statement.

    - `walk`: Conditions by which the index finds its place; with the order, they say which jobs are looked at.
    - `choice`: Conditions that choose among these.
    - `whole`: True if it is fast without slices.
    """

    index: str
    order: str
    walk: Mapping[str, Sequence[Any]]
    choice: Mapping[str, Sequence[Any]]
    whole: bool = False

    def select(self, columns: str, conditions: Mapping[str, Sequence[Any]], tail: str) -> tuple[str, Sequence[Any]]:
        where = " AND ".join(["1", *conditions])
        text = f"SELECT {columns} FROM jobs {self.index} WHERE {where} ORDER BY {self.order} LIMIT {tail}"  # noqa: S608
        return text, [value for values in conditions.values() for value in values]


def find_slice(connection: sqlite3.Connection, query: JobQuery) -> Slice:
    """Find the first jobs that match a query, among the first `SLICE_ROWS` in its order."""
    if query.status is not None and not query.status:  # SQLite could not use the index
        return Slice([], None)
    parts = _parts(query)
    try:
        return _find(connection, query, parts)
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
        return _find_singly(connection, query, parts)


def _find(connection: sqlite3.Connection, query: JobQuery, parts: _Parts) -> Slice:
    place = "finish_number" if query.order == "finished" else "id"
    upto: Mapping[str, Sequence[Any]] = {}
    end: Cursor | None = None
    if parts.choice and not parts.whole:
        statement, values = parts.select(place, parts.walk, "1 OFFSET ?")
        last = connection.execute(statement, (*values, SLICE_ROWS - 1)).fetchone()
        if last is not None:
            end, upto = str(last[0]), {f"{place} {'>=' if query.order == 'newest' else '<='} ?": [last[0]]}
    statement, values = parts.select(f"id, {place}", {**parts.walk, **upto, **parts.choice}, "?")
    found = connection.execute(statement, (*values, query.limit)).fetchall()
    if len(found) == query.limit:
        end = str(found[-1][1]) if found else None
    return Slice([id for id, _ in found], end)


def _find_singly(connection: sqlite3.Connection, query: JobQuery, parts: _Parts) -> Slice:
    """Find jobs in the index, and look at each row on its own: some of them cannot be read.

    Such a job is found if the index has its id. Whoever reads it sees that it is damaged.
    """
    place = "finish_number" if query.order == "finished" else "id"
    statement, values = parts.select(f"number, CAST({place} AS BLOB)", parts.walk, "?")
    entries = connection.execute(statement, (*values, SLICE_ROWS)).fetchall()
    ids, cursor = list[JobId](), ""
    for number, at in entries:
        cursor = at.decode(errors="replace")
        if (id := _matching(connection, parts, number, cursor if place == "id" else None)) is not None:
            ids.append(id)
            if len(ids) == query.limit:
                return Slice(ids, cursor)
    return Slice(ids, cursor if len(entries) == SLICE_ROWS else None)


def _matching(connection: sqlite3.Connection, parts: _Parts, number: int, id: JobId | None) -> JobId | None:
    """Return the id of a job if it matches, or if its row cannot be read."""
    condition = " AND ".join(["number = ?", *parts.choice])
    given = [value for some in parts.choice.values() for value in some]
    try:
        row = connection.execute(f"SELECT id FROM jobs WHERE {condition}", (number, *given)).fetchone()  # noqa: S608
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
        return id
    return row and str(row[0])


def behind(query: JobQuery, found: Slice) -> JobQuery:
    """Return the query for the rest of a search."""
    return replace(query, after=found.next, limit=query.limit - len(found.ids))


def _parts(query: JobQuery) -> _Parts:
    fails = query.container is not None or query.error is not None or _only(query.status, UNSUCCESSFUL)
    client = {} if query.client is None else {"client = ?": [query.client]}
    order, range = _ORDERS[query.order], _range(query)
    choice: dict[str, Sequence[Any]] = {}
    if query.status is not None and not (fails and set(query.status) >= UNSUCCESSFUL):
        choice[f"status IN ({marks(query.status)})"] = [*query.status]
    if query.container is not None:
        choice["error_container = ?"] = [query.container]
    if query.error is not None:
        choice["instr(error, ?) > 0"] = [query.error]
    failed: Mapping[str, Sequence[Any]] = {HAS_FAILED: ()} if fails else {}
    if query.idempotency_key is not None:  # the index by key is the fastest
        finished: Mapping[str, Sequence[Any]] = {HAS_FINISHED: ()} if query.order == "finished" else {}
        key = {"idempotency_key = ?": [query.idempotency_key]}
        return _Parts("", order, {**client, **key, **finished, **range}, {**failed, **choice}, whole=True)
    if query.order == "finished":
        return _Parts(BY_FINISH, order, {HAS_FINISHED: (), **range}, {**client, **failed, **choice})
    if fails:
        index = BY_FAILED if client else BY_FAILED_OF_ALL
        return _Parts(index, order, {**client, **failed, **range}, choice)
    if _only(query.status, UNFINISHED):  # there are never many of them
        return _Parts("" if client else BY_OPEN, order, {**client, IS_OPEN: (), **range}, choice, whole=True)
    return _Parts("", order, {**client, **range}, choice)


def _range(query: JobQuery) -> Mapping[str, Sequence[str | int]]:
    if query.order == "finished":
        after, before = query.after, query.before
        given: Mapping[str, str | int | None] = {
            "finish_number > ?": -1 if after is None else int(after),  # without these two, damage could yield numbers
            "finish_number < ?": HIGHEST if before is None else int(before),  # that are no cursors
        }
    else:
        after, before = (query.after, query.before) if query.order == "oldest" else (query.before, query.after)
        given = {"id > ?": after, "id < ?": before}
    return {text: [value] for text, value in given.items() if value is not None}


def marks(values: Collection[Any]) -> str:
    return ", ".join("?" * len(values))


def _only(status: Collection[JobStatus] | None, some: Collection[JobStatus]) -> bool:
    """Return True if `status` is given and contains nothing but `some`."""
    return bool(status) and set(some).issuperset(status or ())
