"""Jobs in memory as they are stored, so that whoever waits for one need not read it back."""

from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace

from nodekit.embedded.change_feed import ChangeFeed
from nodekit.embedded.claims import EmbeddedClaim
from nodekit.embedded.recent_jobs import RecentJobs
from nodekit.embedded.saving import Saving
from nodekit.interfaces.store import JobTable
from nodekit.model.container import ClientId, JobId
from nodekit.model.job import Job
from nodekit.model.queries import JobFields

MOST_ENDED, MOST_BYTES = 256, 1 << 16
"""Number of ended jobs that are kept, and size of the largest one. Who reads a larger one reserves memory first."""


class Snapshots:
    """The jobs that run or were just stored, and those that have just ended while somebody waited for them.

    An ended job is given out once, to the one who waited: another process may delete jobs.
    """

    def __init__(
        self,
        table: JobTable,
        queued: RecentJobs,
        claims: Mapping[JobId, EmbeddedClaim],
        feed: ChangeFeed,
        saving: Saving,
    ) -> None:
        self._table, self._queued = table, queued
        self._claims, self._feed, self._saving = claims, feed, saving
        self._ended: dict[JobId, Job] = {}

    def end(self, job: Job) -> None:
        """Keep a job whose end was stored, if somebody waits for it."""
        if self._feed.is_awaited(job.id) and job.payload_bytes <= MOST_BYTES:
            self._ended[job.id] = job
            if len(self._ended) > MOST_ENDED:
                del self._ended[next(iter(self._ended))]

    def forget(self) -> None:
        """Forget ended jobs, since some are deleted."""
        self._ended.clear()

    async def get(self, ids: Sequence[JobId], client: ClientId | None, fields: JobFields) -> list[Job]:
        """Return jobs as `JobStore.get` does. The table is asked for those that are not in memory."""
        known: dict[JobId, Job] = {}
        if not self._saving.failing:  # then whoever waits has to learn if reads fail, too
            if fields is JobFields.STATE:
                known = {id: job for id in ids if (job := self._state(id)) is not None}
            elif fields is JobFields.LAST_STEP and len(ids) == 1 and (job := self._with_last_step(ids[0])) is not None:
                known = {job.id: job}
        if not known:
            return await self._table.get(ids, client=client, fields=fields)
        unique = dict.fromkeys(ids)
        if missing := [id for id in unique if id not in known]:
            known |= {job.id: job for job in await self._table.get(missing, client=client, fields=fields)}
        found = [known[id] for id in unique if id in known]
        return found if client is None else [job for job in found if job.client == client]

    def _state(self, id: JobId) -> Job | None:
        if (claim := self._claims.get(id)) is not None:
            return replace(claim.job, steps=()) if claim.job.steps else claim.job
        if (job := self._queued.get(id)) is not None:
            return replace(job, request=replace(job.request, data=msgspec.Raw()))  # it may be sent to another process
        return None

    def _with_last_step(self, id: JobId) -> Job | None:
        claim = self._claims.get(id)
        job = self._ended.pop(id, None) if claim is None else claim.job
        return None if job is None else replace(job, steps=job.steps[-1:])
