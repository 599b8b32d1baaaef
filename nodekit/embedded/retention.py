"""Deletion of finished jobs, for stores whose table deletes by id."""

import msgspec

from nodekit.interfaces.store import JobTable
from nodekit.model.container import JobId
from nodekit.model.queries import JobFields, JobQuery


class Kept(msgspec.Struct, frozen=True):
    """Limits on the finished jobs that are kept: those that finished since a time, and the `last` ones. None: all."""

    since: float | None = None
    last: int | None = None


async def expire(table: JobTable, kept: Kept, limit: int) -> int:
    """Delete up to `limit` finished jobs that are not kept, first those that finished first. Return their number."""
    ids = await expired(table, kept, limit)
    return await table.delete(ids) if ids else 0


async def expired(table: JobTable, kept: Kept, limit: int) -> list[JobId]:
    """Return the ids of the first `limit` finished jobs that are not kept."""
    first = JobQuery(order="finished", limit=limit)
    surplus = 0 if kept.last is None else max(0, await table.finished() - kept.last)
    if kept.since is None:
        return await table.find(msgspec.structs.replace(first, limit=min(limit, surplus))) if surplus else []
    jobs = await table.get(await table.find(first), fields=JobFields.STATE)
    return [
        job.id
        for place, job in enumerate(jobs)
        if place < surplus or (job.finished_at is not None and job.finished_at < kept.since)
    ]
