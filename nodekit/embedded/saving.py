"""Changed jobs on their way into a table. The end of a job gets its number, and only one."""

import logging
from collections.abc import Callable

from msgspec.structs import replace

from nodekit.embedded.finish_numbers import FinishNumbers
from nodekit.errors import StoreFailed
from nodekit.interfaces.store import Change, JobTable
from nodekit.model.container import JobId
from nodekit.model.job import Job
from nodekit.model.queries import JobFields

logger = logging.getLogger("nodekit.store")


class Saving:
    """Writes jobs, and remembers those whose end may have been written although the table said that it was not."""

    def __init__(
        self,
        table: JobTable,
        numbers: FinishNumbers,
        publish: Callable[[Change | None], None],
        time: Callable[[], float],
    ) -> None:
        self._table, self._numbers, self._publish, self._time = table, numbers, publish, time
        self._unsure: set[JobId] = set()
        """Jobs whose end could not be written, as the table said; it may have been."""
        self.failing = False
        """True from a write that failed to the next one that succeeds."""

    async def save(self, job: Job) -> Job:
        """Write a job, and number it if it has finished. Return it as it was written.

        If the table cannot keep the job any more, because it is damaged, return its end as the table has it.
        """
        try:
            saved = await self._save(job)
        except StoreFailed:
            if (ended := await self._ended_by_damage(job)) is not None:
                return ended
            if not self.failing:
                self.failing = True
                self._publish(None)  # who waits reads again: nothing else would tell that reads fail, too
            raise
        self.failing = False
        return saved

    async def _ended_by_damage(self, job: Job) -> Job | None:
        """Return the end of a job that the table cannot keep. None: it can be tried again."""
        try:
            there = next(iter(await self._table.get([job.id], fields=JobFields.RUN)), None)
        except StoreFailed:
            return None
        if there is None or not there.status.finished or there.finish_number is not None:
            return None
        ended = replace(there, finished_at=self._time())
        try:
            return await self._save(ended)
        except StoreFailed as error:
            logger.error("job %s is damaged, and that it failed cannot be stored: %s", job.id, error)
            return ended

    async def _save(self, job: Job) -> Job:
        if not job.status.finished:
            await self._table.save(job)
            return job
        if job.id in self._unsure and (stored := await self.stored(job)) is not None:
            self._unsure.discard(job.id)
            return stored  # with its first number, which readers may have seen
        number = self._numbers.take()
        try:
            await self._table.save(job := replace(job, finish_number=number))
        except BaseException:
            self._unsure.add(job.id)
            self._numbers.written(number)
            if number < self._numbers.last:  # jobs that finished meanwhile are shown only now
                self._publish(Change(job.id))
            raise
        self._numbers.written(number)
        self._unsure.discard(job.id)
        return job

    async def stored(self, job: Job) -> Job | None:
        """Return the finished job as the table has it, with its number. None if it is not there, or not like this."""
        there = next(iter(await self._table.get([job.id], fields=JobFields.RUN)), None)
        return there if there is not None and there.ended_as(job) else None

    def forget(self, id: JobId) -> None:
        """Forget a job that has ended."""
        self._unsure.discard(id)
