"""The store `memory`: jobs live as long as the node. For tests, and for jobs whose loss does not matter."""

from bisect import bisect_right, insort
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Self

import msgspec

from nodekit import (
    ClientId,
    ContainerId,
    EmbeddedStore,
    Job,
    JobId,
    JobStatus,
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

    async def get(self, ids: Sequence[JobId], *, client: ClientId | None = None) -> list[Job]:
        found = (self._jobs[id] for id in dict.fromkeys(ids) if id in self._jobs)
        return [job for job in found if client is None or job.client == client]

    async def find(
        self,
        *,
        client: ClientId | None = None,
        status: Collection[JobStatus] | None = None,
        idempotency_key: str | None = None,
        container: ContainerId | None = None,
        error: str | None = None,
        after: JobId | None = None,
        limit: int,
    ) -> list[JobId]:
        ids = self._ids.get(client, [])
        if client is not None and idempotency_key is not None:  # looked up, because every request with a key does this
            known = self._keys.get((client, idempotency_key))
            ids = [known] if known else []
        found: list[JobId] = []
        for position in range(bisect_right(ids, after) if after else 0, len(ids)):
            if len(found) == limit:
                break
            job = self._jobs[ids[position]]
            if (
                (status is None or job.status in status)
                and idempotency_key in (None, job.request.idempotency_key)
                and ((container is None and error is None) or _failed_with(job, container, error))
            ):
                found.append(job.id)
        return found

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


def _failed_with(job: Job, container: ContainerId | None, text: str | None) -> bool:
    error = job.error
    return error is not None and container in (None, error.container) and (text is None or text in error.error)


class MemoryStore(EmbeddedStore):
    """A `JobStore` in memory."""

    def __init__(self) -> None:
        super().__init__(MemoryTable())


provider = Provider(MemoryConfig, lambda config, file: MemoryStore())
