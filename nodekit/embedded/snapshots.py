"""Jobs that have just ended, in memory as they are stored, so that whoever waits for one need not read it back."""

from collections.abc import Sequence

from msgspec.structs import replace

from nodekit.embedded.change_feed import ChangeFeed
from nodekit.model.container import ClientId, JobId
from nodekit.model.job import Job
from nodekit.model.queries import JobFields

MOST_ENDED, MOST_BYTES = 256, 1 << 16
"""Number of ended jobs that are kept, and size of the largest one. Who reads a larger one reserves memory first."""


class Snapshots:
    """The jobs that have ended while somebody waited for them.

    Each is given out once, to the one who waited: another process may delete jobs.
    """

    def __init__(self, feed: ChangeFeed) -> None:
        self._feed = feed
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

    def get(self, ids: Sequence[JobId], client: ClientId | None, fields: JobFields) -> list[Job]:
        """Return a job with its last step, if it is the only one. Return none if the table has to be asked."""
        if fields is not JobFields.LAST_STEP or len(ids) != 1 or (job := self._ended.pop(ids[0], None)) is None:
            return []
        return [replace(job, steps=job.steps[-1:])] if client is None or client == job.client else []
