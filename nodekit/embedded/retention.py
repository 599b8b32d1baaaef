"""Deletion of finished jobs, for stores whose table deletes by id."""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

from msgspec.structs import replace

from nodekit.interfaces.store import JobTable
from nodekit.interfaces.store_abilities import JobView
from nodekit.model.container import JobId
from nodekit.model.job import Job
from nodekit.model.queries import JobFields, JobQuery

PAGE = 1000
"""Number of jobs that are read at once beyond those that are deleted."""


MOST_BYTES = 8 << 20
"""Size of the payloads that are deleted at once, unless one job has more: others wait meanwhile."""


class Expiry:
    """Deletes finished jobs from a table, first those that finished first.

    The number up to which jobs are surplus is used until all of them are deleted, or until `forget`: finding it takes
    long in a large table.
    """

    def __init__(self, table: JobTable, time: Callable[[], float]) -> None:
        self._table, self._time = table, time
        self._surplus: dict[int, int] = {}
        """Highest number to delete, by the number of jobs to keep."""

    def forget(self) -> None:
        """Find anew what is surplus: somebody deletes other jobs."""
        self._surplus.clear()

    async def expire(self, *, finished_before: float | None, keep: int | None, limit: int) -> int:
        """Delete as `JobStore.expire` does; fewer jobs if they are large, but one at least."""
        first = JobQuery(order="finished", limit=limit)
        ids = [] if finished_before is None else await expired(self._table, finished_before, limit, self._time)
        if keep is not None and len(ids) < limit:
            ids = list(dict.fromkeys([*ids, *await self._not_kept(first, keep)]))[:limit]
        return await self._table.delete(await self._not_too_large(ids)) if ids else 0

    async def _not_too_large(self, ids: Sequence[JobId]) -> Sequence[JobId]:
        """Return the first of these jobs, as many as are no more than `MOST_BYTES` together, and one at least."""
        sizes: Mapping[JobId, int] = await self._table.sizes(ids) if len(ids) > 1 else {}
        sums = accumulate(sizes.get(id, 0) for id in ids)
        return ids[: max(1, sum(size <= MOST_BYTES for size in sums))]

    async def _not_kept(self, first: JobQuery, keep: int) -> list[JobId]:
        if keep in self._surplus:
            if ids := await self._table.find(replace(first, before=str(self._surplus[keep] + 1))):
                return ids
            del self._surplus[keep]
        if (last := await self._table.last_surplus(keep)) is None:
            return []
        self._surplus[keep] = last
        return await self._table.find(replace(first, before=str(last + 1)))


async def expired(table: JobTable | JobView, before: float, limit: int, time: Callable[[], float]) -> list[JobId]:
    """Return the ids of the first `limit` jobs that finished before a time, in the order in which they finished.

    A job that finished before one of them is as old, whatever its time says: a clock that was ahead for a while gave it
    a time in the future.
    """
    page = JobQuery(order="finished", limit=limit)
    first: list[Job] = []
    while jobs := await table.get(await table.find(page), fields=JobFields.STATE):
        first = first or jobs
        old = [place for place, job in enumerate(jobs) if job.finished_at is not None and job.finished_at < before]
        if old:
            return [job.id for job in (jobs[: old[-1] + 1] if first is jobs else first)]
        if not all(job.finished_at is not None and job.finished_at > time() for job in jobs):
            return []
        page = replace(page, after=page.cursor(jobs[-1]), limit=PAGE)
    return []
