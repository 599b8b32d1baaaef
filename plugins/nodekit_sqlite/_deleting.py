"""Deletion of jobs. It runs inside a transaction of the writing thread."""

import sqlite3
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from nodekit import GroupId, JobId
from nodekit_sqlite._places import job_at, places
from nodekit_sqlite._query import marks
from nodekit_sqlite._reading import JOB, group_in
from nodekit_sqlite._sums import DamagedRecord, check_state
from nodekit_sqlite._usage import Usage

_FREED_PAGES = 200
"""Number of pages of 4 KiB that a deletion gives back to the file system beyond those that it frees."""
_BORROWED = "SELECT DISTINCT owner FROM records WHERE owner IS NOT NULL AND place BETWEEN ? AND ?"
_DELETE_BORROWED = "DELETE FROM records WHERE owner IS NOT NULL AND place BETWEEN ? AND ?"
_IS_SHARED = "SELECT 1 FROM records AS shared WHERE shared.owner = records.place"
_DELETE_OWN = f"DELETE FROM records WHERE place BETWEEN ? AND ? AND NOT EXISTS ({_IS_SHARED})"  # noqa: S608
_DELETE_ONE = f"DELETE FROM records WHERE place = ? AND NOT EXISTS ({_IS_SHARED}) RETURNING length(body)"  # noqa: S608
_LEFT = "SELECT sum(length(body)) FROM records WHERE place BETWEEN ? AND ?"


def delete(connection: sqlite3.Connection, ids: Sequence[JobId], usage: Usage) -> tuple[int, int]:
    """Delete those of the jobs that have finished. Records that others share stay until nobody does.

    Return the number of deleted jobs, and the number of pages that were free before.
    """
    changes: Counter[GroupId] = Counter()
    before = _free_pages(connection)
    deleted = _delete(connection, ids, changes)
    for group, change in changes.items():
        usage.add(group, change)
    return deleted, before


def _delete(connection: sqlite3.Connection, ids: Sequence[JobId], changes: Counter[GroupId]) -> int:
    found = f"SELECT {JOB}, state_sum FROM jobs WHERE open = 0 AND id IN ({marks(ids)})"  # noqa: S608
    jobs = {row[0]: row for row in connection.execute(found, ids)}
    if not jobs:
        return 0
    of_jobs = [places(number) for number in jobs]
    counted = {number: _stored(connection, row) for number, row in jobs.items()}
    borrowed = {owner for some in of_jobs for (owner,) in connection.execute(_BORROWED, some)}
    connection.executemany(_DELETE_BORROWED, of_jobs)
    connection.executemany(_DELETE_OWN, of_jobs)
    connection.execute(f"DELETE FROM jobs WHERE number IN ({marks(jobs)})", [*jobs])  # noqa: S608
    for number, (_, _, client, state, *_) in jobs.items():
        group = group_in(client, state)
        ((left,),) = connection.execute(_LEFT, places(number))
        changes[group] += (left or 0) - counted[number]
        if left is not None:
            connection.execute("INSERT INTO leftovers VALUES (?, ?)", (number, group))
    _give_up(connection, borrowed, changes)
    highest = max((row[6] for row in jobs.values() if isinstance(row[6], int)), default=0)
    connection.execute("UPDATE deleted_numbers SET highest = max(highest, ?)", (highest,))
    return len(jobs)


def _stored(connection: sqlite3.Connection, row: Sequence[Any]) -> int:
    """Return the number of bytes that are counted for a job; an estimate, if that number is damaged."""
    *columns, sum = row
    try:
        check_state(sum, *columns)
        return int(columns[10])
    except DamagedRecord:
        return int(connection.execute(_LEFT, places(columns[0])).fetchone()[0] or 0)


def _give_up(connection: sqlite3.Connection, borrowed: Collection[int], changes: Counter[GroupId]) -> None:
    """Delete records of jobs that are gone, if these borrowers were the last."""
    for owner in borrowed:
        job = job_at(owner)
        group = connection.execute("SELECT of_group FROM leftovers WHERE job = ?", (job,)).fetchone()
        if group is None:  # the job is still there
            continue
        for (size,) in connection.execute(_DELETE_ONE, (owner,)).fetchall():
            changes[group[0]] -= size
        if connection.execute(_LEFT, places(job)).fetchone() == (None,):
            connection.execute("DELETE FROM leftovers WHERE job = ?", (job,))


def shrink(connection: sqlite3.Connection, before: int) -> None:
    """Give pages back to the file system: those that were freed since there were `before` free ones, and some more.

    This has a transaction of its own: SQLite cannot commit one in which it failed.
    """
    after = _free_pages(connection)
    for _ in range(min(after, after - before + _FREED_PAGES)):  # sqlite3 takes one step of this, which frees one page
        connection.execute("PRAGMA incremental_vacuum")


def _free_pages(connection: sqlite3.Connection) -> int:
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    return int(free)
