"""The store `memory`: jobs live as long as the node. For tests, and for jobs whose loss does not matter."""

from bisect import bisect_right, insort
from collections.abc import Sequence
from itertools import islice
from types import TracebackType
from typing import Self

import msgspec

from nodekit import (
    ClientId,
    EmbeddedStore,
    Job,
    JobFields,
    JobId,
    JobQuery,
    Provider,
    Unfinished,
)

__all__ = ["MemoryConfig", "MemoryStore", "MemoryTable", "provider"]


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
        self._keys: dict[tuple[ClientId, str | None], JobId] = {}

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
        return job

    async def save(self, job: Job) -> None:
        self._jobs[job.id] = job

    async def get(
        self, ids: Sequence[JobId], *, client: ClientId | None = None, fields: JobFields = JobFields.ALL
    ) -> list[Job]:
        found = (self._jobs[id] for id in dict.fromkeys(ids) if id in self._jobs)
        return [job for job in found if client is None or job.client == client]

    async def find(self, query: JobQuery) -> list[JobId]:
        ids = self._ids.get(query.client, [])
        if query.client is not None and query.idempotency_key is not None:
            known = self._keys.get((query.client, query.idempotency_key))  # every request with a key asks this
            ids = [known] if known else []
        start = bisect_right(ids, query.after) if query.after else 0
        matching = (id for id in islice(ids, start, None) if query.matches(self._jobs[id]))
        return list(islice(matching, query.limit))

    async def delete(self, ids: Sequence[JobId]) -> int:
        gone = [job for id in set(ids) if (job := self._jobs.get(id)) and job.status.finished]
        for job in gone:
            del self._jobs[job.id]
            self._keys.pop((job.client, job.request.idempotency_key), None)
            for client in (None, job.client):
                self._ids[client].remove(job.id)
            if not self._ids[job.client]:
                del self._ids[job.client]
        return len(gone)

    async def unfinished(self) -> list[Unfinished]:
        return [Unfinished.of(self._jobs[id]) for id in self._ids[None] if not self._jobs[id].status.finished]


class MemoryStore(EmbeddedStore):
    """A `JobStore` in memory."""

    def __init__(self) -> None:
        super().__init__(MemoryTable())


provider = Provider(MemoryConfig, lambda config, file: MemoryStore())
