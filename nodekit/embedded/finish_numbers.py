"""Numbers of jobs in the order in which they finish, for stores that number them on one machine."""

from collections.abc import Callable

from msgspec.structs import replace

from nodekit.interfaces.store import JobTable
from nodekit.model.queries import JobFields, JobQuery


class FinishNumbers:
    """Numbers that rise with the clock `time` (in microseconds) and never fall, even if the clock does.

    Several jobs are written at the same time, so a higher number may be stored before a lower one. Readers see numbers
    up to `stored` only: no lower number appears later.
    """

    def __init__(self, time: Callable[[], float]) -> None:
        self._time = time
        self.last = 0
        """Highest number that was taken."""
        self._writing: set[int] = set()

    async def resume(self, table: JobTable) -> None:
        """Continue after the highest number in a table that was just opened.

        A table that has `last_finish_number` says it itself, also if that job was deleted.
        """
        if (ask := getattr(table, "last_finish_number", None)) is not None:
            self.last = await ask()
            return
        self.last = int(self._time() * 1e6)
        while ids := await table.find(JobQuery(order="finished", after=str(self.last))):
            jobs = await table.get(ids[-1:], fields=JobFields.STATE)
            self.last = max([self.last + 1, *(job.finish_number or 0 for job in jobs)])

    def take(self) -> int:
        """Return the number of a job that is about to be written. Call `written` afterwards."""
        self.last = max(self.last + 1, int(self._time() * 1e6))
        self._writing.add(self.last)
        return self.last

    def written(self, number: int) -> None:
        """Release a number, whether its job was stored or not."""
        self._writing.discard(number)

    @property
    def stored(self) -> int:
        """Highest number below which nothing is being written."""
        return min(self._writing) - 1 if self._writing else self.last

    def shown(self, query: JobQuery) -> JobQuery:
        """Return a query for what may be shown: in the order ``finished``, jobs below which none is being written."""
        if query.order != "finished":
            return query
        end = self.stored + 1
        return replace(query, before=str(end if query.before is None else min(end, int(query.before))))
