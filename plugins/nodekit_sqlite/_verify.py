"""The check of a file: its pages and indexes, every record of every job, and the records of plugins.

It reads in small transactions, so that a node may work on the file meanwhile.
"""

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from msgspec.structs import replace

from nodekit import JobFields, JobId, JobQuery, StoreCheck, StoreFailed
from nodekit_sqlite._beside import Beside
from nodekit_sqlite._damage import CURE, Damages
from nodekit_sqlite._pages import named_parts, unreadable_parts
from nodekit_sqlite._places import NUMBER_BITS
from nodekit_sqlite._query import SLICE_ROWS, find_slice
from nodekit_sqlite._reading import read_sizes, select
from nodekit_sqlite._sums import plugin_sum

T = TypeVar("T")

_MOST_PROBLEMS = 1000
_JOBS = 500
_MOST_BYTES = 16 << 20
"""Bytes of the payloads of jobs that are read at once; a single job may have more."""
_PLUGIN_RECORDS = 100
_LAST_PLACE = "SELECT max(place) FROM (SELECT place FROM records WHERE place > ? ORDER BY place LIMIT ?)"
_OF_NO_JOB = f"""
    SELECT DISTINCT place >> {NUMBER_BITS} FROM records WHERE place > ? AND place <= ?
    AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.number = records.place >> {NUMBER_BITS})
    AND NOT EXISTS (SELECT 1 FROM leftovers WHERE leftovers.job = records.place >> {NUMBER_BITS})
"""  # noqa: S608 - our own texts only
_PLUGIN = "SELECT version, namespace, key, value, sum FROM plugin_records WHERE version > ? ORDER BY version LIMIT ?"


def verify(file: Beside, proceed: Callable[[], object]) -> StoreCheck:
    """Read everything and return what is wrong. What `proceed` raises, between two reads, ends the check."""
    check = _Check(file, proceed)
    check.pages()
    check.jobs()
    check.records()
    check.plugin_records()
    return StoreCheck(check.number, tuple(check.problems), check.more, CURE)


class _Damaged(Damages):
    """The damaged jobs, which the check names itself."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self._tell = tell

    def of_job(self, id: JobId, error: Exception) -> None:
        self._tell(f"job {id} is damaged: {error}")


class _Check:
    def __init__(self, file: Beside, proceed: Callable[[], object]) -> None:
        self._file, self._proceed = file, proceed
        self._damages = _Damaged(self._wrong)
        self.number = 0
        self.problems: dict[str, None] = {}
        self.more = 0

    def _wrong(self, text: str) -> None:
        if text in self.problems:
            return
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems[text] = None
        else:
            self.more += 1

    def _read(self, part: str, function: Callable[[sqlite3.Connection], T]) -> T | None:
        """Return what a function reads. None: it failed, which is a problem of that part."""
        self._proceed()
        try:
            return self._file.read(function)
        except (sqlite3.Error, StoreFailed) as error:
            self._proceed()
            self._wrong(f"{part} cannot be read: {error}")
            return None

    def pages(self) -> None:
        """Check the pages of the file, and that the indexes fit their tables."""

        def read(connection: sqlite3.Connection) -> Sequence[str]:
            connection.set_progress_handler(self._interrupt, 100_000)
            try:
                return [str(text) for (text,) in connection.execute(f"PRAGMA integrity_check({_MOST_PROBLEMS})")]
            finally:
                connection.set_progress_handler(None, 0)

        try:
            self._proceed()
            found = self._file.read(lambda connection: named_parts(connection, read(connection)))
        except (sqlite3.Error, StoreFailed) as error:
            self._proceed()
            parts = self._read("the list of tables", unreadable_parts)
            if parts == []:  # it is a page of no table, or of the file as a whole
                self._wrong(f"the file cannot be read: {error}")
            for part in parts or ():
                self._wrong(part)
            return
        for text in found:
            self._wrong(f"the file: {text}")

    def _interrupt(self) -> bool:
        try:
            self._proceed()
        except BaseException:  # SQLite could not pass it on; the next call raises it again
            return True
        return False

    def jobs(self) -> None:
        """Read all jobs whole."""
        query: JobQuery | None = JobQuery(limit=_JOBS)
        while query is not None:
            found = self._read("the index of jobs", partial(find_slice, query=query))
            if found is None:
                return
            for some in self._parts(found.ids):
                self._read(
                    "a part of the jobs",
                    partial(select, ids=some, client=None, fields=JobFields.ALL, damages=self._damages),
                )
            self.number += len(found.ids)
            query = None if found.next is None else replace(query, after=found.next)

    def _parts(self, ids: Sequence[JobId]) -> Sequence[Sequence[JobId]]:
        """Return the ids in parts that are small enough to be read at once."""
        sizes = dict(self._read("the sizes of jobs", lambda connection: [*read_sizes(connection, ids)]) or ())
        parts: list[list[JobId]] = [[]]
        total = 0
        for id in ids:
            total += sizes.get(id, 0)
            if parts[-1] and total > _MOST_BYTES:
                parts.append([])
                total = sizes.get(id, 0)
            parts[-1].append(id)
        return parts

    def records(self) -> None:
        """Look for records of jobs that there never were."""
        last = -1
        while True:
            end = self._read("the records", partial(_last_place, last=last))
            if end is None:
                return
            found = self._read("the records", partial(_of_no_job, last=last, end=end))
            for number in found or ():
                self._wrong(f"there are records of a job number {number}, which is missing")
            last = end

    def plugin_records(self) -> None:
        """Read the records of plugins."""
        after: Any = 0
        while rows := self._read("the records of plugins", partial(_plugin_rows, after=after)):
            after = rows[-1][0]
            for _, namespace, key, value, sum in rows:
                if not _is_intact(namespace, key, value, sum):
                    self._wrong(f"the record {key!r} of the plugin {namespace!r} is damaged")


def _last_place(connection: sqlite3.Connection, last: int) -> int | None:
    found: int | None = connection.execute(_LAST_PLACE, (last, SLICE_ROWS)).fetchone()[0]
    return found


def _of_no_job(connection: sqlite3.Connection, last: int, end: int) -> Sequence[int]:
    return [number for (number,) in connection.execute(_OF_NO_JOB, (last, end))]


def _plugin_rows(connection: sqlite3.Connection, after: Any) -> Sequence[Any]:
    return connection.execute(_PLUGIN, (after, _PLUGIN_RECORDS)).fetchall()


def _is_intact(namespace: Any, key: Any, value: Any, sum: object) -> bool:
    try:
        return plugin_sum(namespace, key, value) == sum
    except TypeError:  # damage changes the types of columns, too
        return False
