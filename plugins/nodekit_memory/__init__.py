"""The store `memory`: jobs live as long as the node. For tests, and for jobs whose loss does not matter."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from itertools import count, islice
from types import TracebackType
from typing import Self, TypeVar

import anyio.lowlevel
import msgspec
from msgspec.structs import replace

from nodekit import (
    ClientId,
    Clock,
    Cursor,
    EmbeddedStore,
    Job,
    JobFields,
    JobId,
    JobQuery,
    Page,
    PluginStorage,
    Provider,
    StoreFailed,
    TableArchive,
    Unfinished,
)
from nodekit_memory._storage import MemoryStorage

__all__ = ["MemoryConfig", "MemoryStore", "MemoryTable", "provider"]

SLICE = 1000
"""Number of jobs that a search looks at in one turn: about a millisecond."""
PAGE_SLICES = 100
"""Number of slices after which a page ends, however few jobs were found."""

Entry = TypeVar("Entry", JobId, tuple[int, JobId])


class MemoryConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The store's settings. It has none."""


class MemoryTable:
    """A table of jobs in a dictionary.

    Your own table may contain one: add the jobs that you have read with `add`, and answer `get`, `find` and
    `unfinished` from it. It holds nothing that has to be opened or closed, so it need not be entered.
    """

    def __init__(self) -> None:
        self._jobs: dict[JobId, Job] = {}
        self._ids: dict[ClientId | None, list[JobId]] = {None: []}
        """Sorted ids by client; under None the ids of all clients."""
        self._finished: list[tuple[int, JobId]] = []
        """Sorted finish numbers, with the ids of their jobs."""
        self._keys: dict[tuple[ClientId, str | None], JobId] = {}
        self._versions = count(1)
        self._storages: dict[str, MemoryStorage] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        return [self._jobs.get(self._known_id(job)) or self._insert(job) for job in jobs]

    def _known_id(self, job: Job) -> JobId:
        return self._keys.get((job.client, job.request.idempotency_key), job.id)

    def _insert(self, job: Job) -> Job:
        self._jobs[job.id] = job
        if job.request.idempotency_key is not None:
            self._keys[job.client, job.request.idempotency_key] = job.id
        for ids in (self._ids[None], self._ids.setdefault(job.client, [])):
            insort(ids, job.id)
        if job.finish_number is not None:
            insort(self._finished, (job.finish_number, job.id))
        return job

    async def save(self, job: Job) -> None:
        stored = self._jobs[job.id]
        before = stored.finish_number
        self._jobs[job.id] = job.over(stored)
        if job.finish_number is not None and job.finish_number != before:
            if before is not None:
                _remove(self._finished, [(before, job.id)])
            insort(self._finished, (job.finish_number, job.id))

    async def get(
        self, ids: Sequence[JobId], *, client: ClientId | None = None, fields: JobFields = JobFields.ALL
    ) -> list[Job]:
        unique = dict.fromkeys(ids) if len(ids) > 1 else ids  # most callers ask for one
        return [
            job
            for id in unique
            if (job := self._jobs.get(id)) is not None and (client is None or job.request.client == client)
        ]

    async def find(self, query: JobQuery) -> list[JobId]:
        return list((await self._search(query, None)).ids)

    async def page(self, query: JobQuery) -> Page:
        """Return a page of a search, which may be short (`PagingStore`)."""
        return await self._search(query, PAGE_SLICES)

    async def _search(self, query: JobQuery, slices: int | None) -> Page:
        """Search slice by slice, with a turn of the event loop after each."""
        ids: list[JobId] = []
        for number in count(1):
            found, end = self._slice(query)
            ids += found
            if end is None or len(found) == query.limit or number == slices:
                return Page(ids, end)
            query = replace(query, after=end, limit=query.limit - len(found))
            await anyio.lowlevel.checkpoint()
        raise AssertionError

    def _slice(self, query: JobQuery) -> tuple[list[JobId], Cursor | None]:
        """Return the matching jobs among the first ones in the order of the query, and the cursor behind these."""
        ids: list[JobId] = []
        looked = 0
        for looked, id in enumerate(islice(self._in_order(query), SLICE), 1):
            if query.matches(job := self._jobs[id]):
                ids.append(id)
            if len(ids) == query.limit or looked == SLICE:
                return ids, query.cursor(job)
        return ids, None

    def _in_order(self, query: JobQuery) -> Iterator[JobId]:
        """Yield the ids behind `query.after` of jobs that may match, in the order of the query."""
        if query.client is not None and query.idempotency_key is not None:
            known = self._keys.get((query.client, query.idempotency_key))  # every request with a key asks this
            return iter([known] if known else [])
        if query.order == "finished":
            begin = bisect_left(self._finished, (int(query.after or 0) + 1, ""))
            end = bisect_left(self._finished, (int(query.before), "")) if query.before else len(self._finished)
            return (self._finished[place][1] for place in range(begin, end))
        ids = self._ids.get(query.client, [])
        if query.order == "oldest":
            return islice(ids, bisect_right(ids, query.after) if query.after else 0, None)
        end = bisect_left(ids, query.after) if query.after else len(ids)
        return (ids[place] for place in range(end - 1, -1, -1))

    async def sizes(self, ids: Sequence[JobId]) -> dict[JobId, int]:
        return {id: self._jobs[id].payload_bytes for id in ids if id in self._jobs}

    async def delete(self, ids: Sequence[JobId]) -> int:
        gone = [job for id in set(ids) if (job := self._jobs.get(id)) and job.status.finished]
        by_client: dict[ClientId | None, list[JobId]] = {None: [job.id for job in gone]}
        for job in gone:
            del self._jobs[job.id]
            self._keys.pop((job.client, job.request.idempotency_key), None)
            by_client.setdefault(job.client, []).append(job.id)
        for client, some in by_client.items():
            _remove(self._ids[client], some)
            if client is not None and not self._ids[client]:
                del self._ids[client]
        _remove(self._finished, [(job.finish_number, job.id) for job in gone if job.finish_number is not None])
        return len(gone)

    def storage(self, namespace: str) -> MemoryStorage:
        """Return the records of a plugin."""
        return self._storages.setdefault(namespace, MemoryStorage(self._versions))

    async def last_surplus(self, keep: int) -> int | None:
        return self._finished[-keep - 1][0] if len(self._finished) > keep else None

    async def unfinished(self) -> list[Unfinished]:
        return [Unfinished.of(self._jobs[id]) for id in self._ids[None] if not self._jobs[id].status.finished]


def _remove(entries: list[Entry], some: Sequence[Entry]) -> None:
    """Remove some entries of a sorted list. Those that are beside each other, as the oldest are, go at once."""
    places = sorted(bisect_left(entries, entry) for entry in some)
    while places:
        begin = end = places.pop()
        while places and places[-1] == begin - 1:
            begin = places.pop()
        del entries[begin : end + 1]


class MemoryStore(EmbeddedStore):
    """A `JobStore` in memory."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._memory = MemoryTable()
        super().__init__(self._memory, clock=clock)

    def storage(self, namespace: str) -> PluginStorage:
        """Return the records of a plugin (`StoringStore`)."""
        return self._memory.storage(namespace)

    def archive(self, *, create: bool = False) -> TableArchive:
        """Raise `StoreFailed`: there is nothing to read or write without the node."""
        raise StoreFailed("the store `memory` keeps jobs as long as its node runs; there is nothing to read or to copy")


provider = Provider(MemoryConfig, lambda config, file: MemoryStore())
