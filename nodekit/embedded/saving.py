"""Changed jobs on their way into a table. The end of a job gets its number, and only one."""

from collections.abc import Callable

from msgspec.structs import replace

from nodekit.embedded.finish_numbers import FinishNumbers
from nodekit.interfaces.store import Change, JobTable
from nodekit.model.container import JobId
from nodekit.model.job import Job
from nodekit.model.queries import JobFields


class Saving:
    """Writes jobs, and remembers those whose end may have been written although the table said that it was not."""

    def __init__(self, table: JobTable, numbers: FinishNumbers, publish: Callable[[Change], None]) -> None:
        self._table, self._numbers, self._publish = table, numbers, publish
        self._unsure: set[JobId] = set()
        """Jobs whose end could not be written, as the table said; it may have been."""

    async def save(self, job: Job) -> Job:
        """Write a job, and number it if it has finished. Return it as it was written."""
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
