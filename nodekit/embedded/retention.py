"""Deletion of finished jobs, for stores whose table deletes by id."""

from msgspec.structs import replace

from nodekit.interfaces.store import JobTable
from nodekit.model.container import JobId
from nodekit.model.queries import JobFields, JobQuery


class Expiry:
    """Deletes finished jobs from a table, first those that finished first.

    The number up to which jobs are surplus is used until all of them are deleted: finding it takes long in a large
    table. If somebody else deletes later jobs meanwhile, up to so many fewer are kept.
    """

    def __init__(self, table: JobTable) -> None:
        self._table = table
        self._surplus: dict[int, int] = {}
        """Highest number to delete, by the number of jobs to keep."""

    async def expire(self, *, finished_before: float | None, keep: int | None, limit: int) -> int:
        """Delete as `JobStore.expire` does."""
        first = JobQuery(order="finished", limit=limit)
        ids: list[JobId] = []
        if finished_before is not None:
            jobs = await self._table.get(await self._table.find(first), fields=JobFields.STATE)
            ids = [job.id for job in jobs if job.finished_at is not None and job.finished_at < finished_before]
        if keep is not None and len(ids) < limit:
            ids = list(dict.fromkeys([*ids, *await self._not_kept(first, keep)]))[:limit]
        return await self._table.delete(ids) if ids else 0

    async def _not_kept(self, first: JobQuery, keep: int) -> list[JobId]:
        if keep in self._surplus:
            if ids := await self._table.find(replace(first, before=str(self._surplus[keep] + 1))):
                return ids
            del self._surplus[keep]
        if (last := await self._table.last_surplus(keep)) is None:
            return []
        self._surplus[keep] = last
        return await self._table.find(replace(first, before=str(last + 1)))
