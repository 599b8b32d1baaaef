"""Numbers of jobs in the order in which they finish, for stores that number them on one machine."""

import time

from nodekit.interfaces.store import JobTable
from nodekit.model.queries import JobFields, JobQuery


class FinishNumbers:
    """Numbers that rise with the clock (in microseconds) and never fall, even if the clock does.

    Jobs are written at the same time, so a higher number may be stored before a lower one. Readers see only numbers up
    to `stored`, behind which nothing can come up any more.
    """

    def __init__(self) -> None:
        self._last = 0
        self._writing: set[int] = set()

    async def look(self, table: JobTable) -> None:
        """Go on behind the numbers in a table that was just opened."""
        self._last = time.time_ns() // 1000
        while ids := await table.find(JobQuery(order="finished", after=str(self._last))):
            jobs = await table.get(ids[-1:], fields=JobFields.STATE)
            self._last = max(self._last + 1, *(job.finish_number or 0 for job in jobs))

    def take(self) -> int:
        """Return the number of a job that is about to be written. Call `written` afterwards."""
        self._last = max(self._last + 1, time.time_ns() // 1000)
        self._writing.add(self._last)
        return self._last

    def written(self, number: int) -> None:
        """Record that a job was stored, or could not be."""
        self._writing.discard(number)

    @property
    def stored(self) -> int:
        """Highest number that is stored together with all lower ones."""
        return min(self._writing) - 1 if self._writing else self._last
