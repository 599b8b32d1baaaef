"""Jobs that a store has ended by itself, until its node reads them. Ids only, because they may never be read."""

from collections.abc import Awaitable, Callable, Sequence

from nodekit.concurrency.signal import Signal
from nodekit.model.container import JobId
from nodekit.model.job import Job

AT_ONCE = 1
"""Number of jobs that are read at once: they are few, and may be large."""


class Ended:
    """Queue that gives out each job once."""

    def __init__(self) -> None:
        self._ids: list[JobId] = []
        self._added = Signal()

    def put(self, id: JobId) -> None:
        self._ids.append(id)
        self._added.set()

    async def take(self, get: Callable[[Sequence[JobId]], Awaitable[Sequence[Job]]]) -> Sequence[Job]:
        """Wait until there are any, and read some of them. Jobs that were deleted meanwhile are left out."""
        jobs: Sequence[Job] = ()
        while not jobs:
            while not self._ids:
                await self._added.wait()
            taken, self._ids = self._ids[:AT_ONCE], self._ids[AT_ONCE:]
            try:
                jobs = await get(taken)
            except BaseException:  # cancelled, or the table cannot read: put them back
                self._ids[:0] = taken
                raise
        return jobs
