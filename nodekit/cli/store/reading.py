"""Jobs read from a view page by page, so that a large store takes no more memory than a small one."""

import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from nodekit.errors import StoreFailed
from nodekit.interfaces.store_abilities import JobView
from nodekit.model.container import ContainerId, JobId
from nodekit.model.job import UNSUCCESSFUL, Job, JobStatus
from nodekit.model.queries import JobFields, JobOrder, JobQuery

PAGE = 500
"""Number of jobs that are read at once, without their payloads."""
MOST_BYTES = 8 << 20
"""Bytes of the payloads that are read at once; a single job may have more."""

STATUSES = {
    "queued": frozenset({JobStatus.ACCEPTED}),
    "running": frozenset({JobStatus.RUNNING}),
    "success": frozenset({JobStatus.SUCCESS}),
    "failed": UNSUCCESSFUL,
}


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The jobs that a command shows.

    - `container`: Container that is due, or in which the job ended.
    - `since`, `until`: Range of the age in seconds, since the job was accepted: younger than `since`, older than
      `until`.
    - `limit`: Maximum number of jobs; None: all.
    """

    client: str | None = None
    status: str | None = None
    container: ContainerId | None = None
    error: str | None = None
    since: float | None = None
    until: float | None = None
    order: JobOrder = "oldest"
    limit: int | None = None

    def query(self, now: float) -> JobQuery:
        """Return the question for the store. `accepts` chooses among its answers."""
        fails = self.status == "failed" or self.error is not None
        first = None if self.since is None or self.order == "finished" else _first_id(now - self.since)
        return JobQuery(
            client=self.client,
            status=None if self.status is None else STATUSES[self.status],
            container=self.container if fails else None,
            error=self.error,
            order=self.order,
            after=first if self.order == "oldest" else None,
            before=first if self.order == "newest" else None,
            limit=PAGE,
        )

    def accepts(self, job: Job, now: float) -> bool:
        """Return True if the age of the job is in the range."""
        age = now - job.accepted_at
        return (self.since is None or age <= self.since) and (self.until is None or age >= self.until)


def _first_id(seconds: float) -> JobId:
    """Return an id below those of all jobs that were accepted since a time: ids begin with milliseconds."""
    digits = f"{int(max(0.0, seconds) * 1000):012x}"
    return f"{digits[:8]}-{digits[8:]}-0000-0000-000000000000"


class Reader:
    """Reads jobs of a view. It remembers those that could not be read, and goes on with the others."""

    def __init__(self, view: JobView) -> None:
        self._view = view
        self.failed: dict[JobId, str] = {}
        """Jobs that could not be read, with the reasons."""

    async def states(self, choice: Choice) -> AsyncIterator[Sequence[Job]]:
        """Yield the chosen jobs in pages: their states, without payloads. Damaged ones are among them, as failed."""
        now, left = time.time(), choice.limit
        query = choice.query(now)
        looked: Sequence[JobId] = ()
        while ids := await self._view.find(query):
            jobs = await self._get(ids, JobFields.STATE)
            if query.order != "finished":
                query = replace(query, after=ids[-1])
            elif numbered := [job for job in jobs if job.finish_number is not None]:
                query = replace(query, after=query.cursor(numbered[-1]))
            elif ids == looked:
                raise StoreFailed(f"the order of finished jobs is damaged at job {ids[0]}; use another order")
            looked = ids
            chosen = [job for job in jobs if choice.accepts(job, now)]
            if choice.container is not None and query.container is None:
                chosen = [job for job in chosen if await self.container_of(job) == choice.container]
            yield chosen[:left]
            if left is not None and (left := left - len(chosen)) <= 0:
                return

    async def container_of(self, job: Job) -> ContainerId:
        """Return the container that is due, or the one in which the job ended. Empty if it never was in one."""
        if job.due is not None or not job.status.finished:
            return job.due or ""
        if job.result is not None:
            return job.result.container
        for whole in await self._get([job.id], JobFields.LAST_STEP):
            return whole.result.container if whole.result is not None else ""
        return ""

    async def with_error(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """Return the jobs with the errors of those that failed: most of these are in the last step."""
        missing = [job.id for job in jobs if job.status in UNSUCCESSFUL and job.result is None]
        found = {job.id: job for job in await self._get(missing, JobFields.LAST_STEP)} if missing else {}
        return [found.get(job.id, job) for job in jobs]

    async def whole(self, ids: Sequence[JobId]) -> AsyncIterator[Sequence[Job]]:
        """Yield the jobs with all their payloads, some at a time. Damaged ones are left out, and are in `failed`."""
        for some in await self._parts(ids):
            jobs = await self._get(some, JobFields.ALL)
            yield [job for job in jobs if job.id not in self.damaged]

    @property
    def damaged(self) -> Collection[JobId]:
        """The jobs that seemed to have failed because they are damaged, as far as the store says so."""
        found: Collection[JobId] = getattr(self._view, "damaged", ())
        return found

    @property
    def problems(self) -> Mapping[JobId, str]:
        """The jobs that are damaged or could not be read so far, with what is wrong."""
        return {**dict.fromkeys(self.damaged, "it is damaged"), **self.failed}

    async def _parts(self, ids: Sequence[JobId]) -> Sequence[Sequence[JobId]]:
        sizes = await self._view.sizes(ids)
        parts: list[list[JobId]] = []
        total = 0
        for id in ids:
            size = sizes.get(id, 0)
            if not parts or total + size > MOST_BYTES:
                parts.append([])
                total = 0
            parts[-1].append(id)
            total += size
        return parts

    async def _get(self, ids: Sequence[JobId], fields: JobFields) -> Sequence[Job]:
        try:
            return await self._view.get(ids, fields=fields)
        except StoreFailed as error:
            if len(ids) == 1:
                self.failed[ids[0]] = str(error)
                return []
        return [job for id in ids for job in await self._get([id], fields)]
