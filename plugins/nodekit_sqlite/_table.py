"""Jobs in an SQLite file: WAL, one writing thread with group commit, several reading threads."""

import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
import anyio.to_thread

from nodekit import (
    ClientId,
    GroupId,
    Job,
    JobFields,
    JobId,
    JobQuery,
    Page,
    StepRecord,
    StoreFailed,
    Unfinished,
)
from nodekit_sqlite._beside import Beside
from nodekit_sqlite._damage import Damages, has_damage, is_damage, is_lasting
from nodekit_sqlite._deleting import delete, shrink
from nodekit_sqlite._file import DatabaseFile, told
from nodekit_sqlite._finish_numbers import KEEP_NUMBER, LAST_SURPLUS, last_finish_number
from nodekit_sqlite._open_rows import OpenRows
from nodekit_sqlite._pages import look_at_start
from nodekit_sqlite._query import Slice, behind, find_slice
from nodekit_sqlite._readers import Readers
from nodekit_sqlite._reading import read_sizes, read_steps, read_unfinished, select
from nodekit_sqlite._rescue import Rescue
from nodekit_sqlite._saving import Change, Saves
from nodekit_sqlite._schema import check_readable, check_version, prepare_empty_file, repair_indexes, stamp
from nodekit_sqlite._storage import NAMESPACES, SqliteStorage
from nodekit_sqlite._thread import Writer, any_text
from nodekit_sqlite._upgrade import upgrade
from nodekit_sqlite._usage import Usage, read_usage
from nodekit_sqlite._writing import Addition, Inserts

READERS = 3
"""Number of threads that read. Two can be busy with long reads of one group of clients, and one is left for others."""
PAGE_SLICES = 10
"""Number of slices after which a page ends, however few jobs were found: some tenth of a second."""
_VARIABLES = 500
"""Maximum number of ids in one statement."""
_KNOWN_SECONDS = 10.0
"""Time for which the bytes of a group are known; another process, such as `nodekit prune`, may change them."""
_KNOWN_GROUPS = 10_000
"""Number of groups whose bytes are known at the same time; a client may have any number of addresses."""


class SqliteTable:
    """A durable `JobTable`. The file at `path` is created if it is missing; its folder must exist."""

    shares_payloads = True

    def __init__(self, path: Path, *, synchronous: str = "FULL", group: int = 512, owned: bool = True) -> None:
        self._synchronous = synchronous
        self.rescues = False
        """True to open also a file in which no job could be finished. What can be read of it can be copied."""
        self._owned = owned
        self._file, self.damages = DatabaseFile(path, owned=owned), Damages()
        self._rescue = Rescue(self._file)
        self._usage, self._looked_at = Usage(), dict[GroupId, float]()
        rows = OpenRows()
        self._writer = Writer(self._connect, self._usage, rows, self._rescue, group=group)
        self._inserts = Inserts(rows, self._usage, self.damages)
        self._saves = Saves(rows, self._usage)
        self._beside = Beside(lambda: self._file.path)
        self._readers = Readers(self._connect, threads=READERS) if owned else self._beside
        self._checks = Readers(self._connect, threads=1) if owned else self._beside
        self._stack = AsyncExitStack()
        self._starting = anyio.Lock()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.callback(self._file.close)
            await anyio.to_thread.run_sync(self._open, stack)
            stack.push_async_callback(self._writer.stop)
            if self._owned:
                await self._writer.start()
            for threads in (self._readers, self._checks):
                stack.push_async_callback(threads.stop)
                await threads.start()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self._stack.aclose()

    def _open(self, stack: AsyncExitStack) -> None:
        """Lock and prepare the file. This waits for the disk, so it runs in a thread while the node's loop goes on.

        A view only looks whether it can read the file.
        """
        self._file.open()
        try:
            if self._owned:
                self._prepare(stack)
            else:
                self._beside.open()
                stack.callback(self._beside.close)
                self._beside.read(lambda connection: check_version(connection, self._file.path))
        except (OSError, sqlite3.Error) as error:
            if self.rescues and is_damage(error):
                text = f"{error}; nothing of it can be read, since its beginning is damaged or its end is missing"
                raise StoreFailed(f"cannot open {self._file.path}: {text}; restore a backup") from error
            raise StoreFailed(f"cannot open {self._file.path}: {told(error, self._file.path)}") from error

    def _prepare(self, stack: AsyncExitStack) -> None:
        prepare_empty_file(self._file.path)
        connection = self._connect()
        stack.callback(connection.close)  # it stays open, so that the log stays where it is
        connection.text_factory = any_text
        upgrade(connection, self._file)
        check_readable(connection)
        try:
            repair_indexes(connection, self.damages)
        except StoreFailed as error:
            if not self.rescues:
                raise
            self.damages.of_part("a part that each job needs", error)
        look_at_start(connection, self.damages)
        self._file.pin(stamp(connection))

    def _connect(self) -> sqlite3.Connection:
        # mode=rw: only its owner creates the file; WAL needs write access for readers too
        address = f"{self._file.path.absolute().as_uri()}?mode=rw"
        connection = sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False, timeout=10)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        except BaseException:
            connection.close()  # otherwise the file stays open until the garbage collector runs
            raise
        return connection

    # -- writing ----------------------------------------------------------------------------------

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        return await self._add([Addition(job) for job in jobs])

    async def restore(self, jobs: Sequence[Job]) -> list[Job]:
        """Store jobs of another store as `add` does. None of their outputs is left out: a null is one."""
        return await self._add([Addition(job, whole=True) for job in jobs])

    async def _add(self, new: Sequence[Addition]) -> list[Job]:
        try:
            jobs: list[Job] = await self._writer.share(self._inserts, new)
        except StoreFailed as error:
            if is_lasting(error):
                self.damages.of_part("a page that new jobs need", error)
            raise
        return jobs

    async def save(self, job: Job) -> None:
        """Store the newest snapshot of a job. One that cannot be written because of damage has failed from then on."""
        try:
            await self._writer.share(self._saves, Change(job))
        except StoreFailed as error:
            if is_lasting(error):
                self.damages.unsaved(job.id, error)
            raise
        self.damages.saved(job.id)

    async def delete(self, ids: Sequence[JobId]) -> int:
        """Delete finished jobs. One that SQLite cannot delete, because it is damaged, stays and harms no other."""
        await self._begin_writing()
        unique = list(dict.fromkeys(ids))
        return sum([await self._delete(some) for some in _slices(unique)])

    async def _begin_writing(self) -> None:
        """Begin to write beside the owner of the file. Until a view is asked to, it writes nothing."""
        if not self._owned:
            async with self._starting:
                if self._file.is_open and not self._writer.started:
                    await self._writer.start()

    async def _delete(self, ids: Sequence[JobId]) -> int:
        try:
            deleted, before = await self._writer.call(lambda connection: delete(connection, ids, self._usage))
        except StoreFailed as error:
            if not has_damage(error):
                raise
            if len(ids) > 1:  # each in its own transaction: SQLite cannot commit one in which it found damage
                return sum([await self._delete([id]) for id in ids])
            self.damages.of_part("a page with finished jobs, which cannot be deleted,", error)
            return 0
        if deleted:
            await self._shrink(before)
        return deleted

    async def _shrink(self, free_before: int) -> None:
        try:
            await self._writer.call(lambda connection: shrink(connection, free_before))
        except StoreFailed as error:
            if not has_damage(error):
                raise
            self.damages.of_part("the list of free pages", error)

    # -- reading ----------------------------------------------------------------------------------

    async def get(
        self, ids: Sequence[JobId], *, client: ClientId | None = None, fields: JobFields = JobFields.ALL
    ) -> list[Job]:
        unique, damages = list(dict.fromkeys(ids)), self.damages

        def read(connection: sqlite3.Connection) -> list[Job]:
            found = [job for some in _slices(unique) for job in select(connection, some, client, fields, damages)]
            jobs = {job.id: job for job in found}
            return [damages.known(jobs[id]) for id in unique if id in jobs]

        long = len(unique) > 1 and fields is not JobFields.STATE
        return await self._readers.call(read, long=long) if unique else []

    @property
    def damaged(self) -> Collection[JobId]:
        """The jobs that could not be read, and were returned as failed."""
        return self.damages.jobs

    async def sizes(self, ids: Sequence[JobId]) -> dict[JobId, int]:
        def read(connection: sqlite3.Connection) -> dict[JobId, int]:
            return {id: size for some in _slices(ids) for id, size in read_sizes(connection, some)}

        return await self._readers.call(read) if ids else {}

    async def steps(self, id: JobId, first: int, most_bytes: int) -> list[StepRecord]:
        return await self._readers.call(lambda connection: read_steps(connection, id, first, most_bytes))

    async def find(self, query: JobQuery) -> list[JobId]:
        return list((await self._search(query, None)).ids)

    async def page(self, query: JobQuery) -> Page:
        """Return a page of a search, which may be short (`PagingStore`)."""
        found = await self._search(query, PAGE_SLICES)
        return Page(found.ids, found.next)

    async def _search(self, query: JobQuery, slices: int | None) -> Slice:
        """Search slice by slice, each in its own turn, until the query's limit or the number of slices is reached."""
        ids: list[JobId] = []
        number = 0
        while True:
            found = await self._readers.call(_finding(query), long=query.idempotency_key is None)
            ids += found.ids
            number += 1
            if found.next is None or len(found.ids) == query.limit or number == slices:
                return Slice(ids, found.next)
            query = behind(query, found)

    async def check(self) -> None:
        """Read from the file, on a connection that does nothing else, and look whether the file is in its place."""
        await self._checks.call(self._check)

    def _check(self, connection: sqlite3.Connection) -> None:
        connection.execute("SELECT max(number) FROM jobs").fetchone()
        if (loss := self._file.look()) is not None or self._rescue.text:
            self._writer.look()  # which saves what it can
            raise StoreFailed(self._rescue.text or (loss.text if loss else ""))

    async def namespaces(self) -> Sequence[str]:
        """Return the namespaces that have records of plugins."""
        return await self._readers.call(lambda connection: [name for (name,) in connection.execute(NAMESPACES)])

    def storage(self, namespace: str) -> SqliteStorage:
        """Return the records of a plugin."""
        return SqliteStorage(namespace, self._writer, self._readers, self._begin_writing)

    async def last_finish_number(self) -> int:
        """Return the highest number that a job of this file ever had."""
        return await self._readers.call(last_finish_number)

    async def keep_finish_number(self, number: int) -> None:
        """Give higher numbers than this one from the next start on."""
        await self._writer.call(lambda connection: connection.execute(KEEP_NUMBER, (number,)).close())

    async def last_surplus(self, keep: int) -> int | None:
        rows = await self._readers.call(lambda c: c.execute(LAST_SURPLUS, (keep,)).fetchall())
        return rows[0][0] if rows else None

    async def unfinished(self) -> list[Unfinished]:
        return await self._readers.call(lambda connection: read_unfinished(connection, self.damages))

    async def stored_bytes(self, groups: Collection[GroupId]) -> Mapping[GroupId, int]:
        """Return the number of bytes that the file holds for each of these groups (`DiskStore`)."""
        if len(self._looked_at) > _KNOWN_GROUPS:
            self._looked_at.clear()
            self._usage.known.clear()
        now = time.monotonic()
        if old := [group for group in groups if now - self._looked_at.get(group, -_KNOWN_SECONDS) >= _KNOWN_SECONDS]:
            self._usage.known.update(await self._readers.call(lambda connection: read_usage(connection, old)))
            self._looked_at.update(dict.fromkeys(old, now))
        return {group: self._usage.known.get(group, 0) for group in groups}


def _finding(query: JobQuery) -> Callable[[sqlite3.Connection], Slice]:
    return lambda connection: find_slice(connection, query)


def _slices(ids: Sequence[JobId]) -> Iterator[Sequence[JobId]]:
    for start in range(0, len(ids), _VARIABLES):
        yield ids[start : start + _VARIABLES]
