"""Jobs in memory as they are stored, so that whoever waits for one need not read it back."""

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from nodekit.embedded.change_feed import ChangeFeed
from nodekit.embedded.claims import EmbeddedClaim
from nodekit.embedded.saving import Saving
from nodekit.model.container import ClientId, JobId
from nodekit.model.job import Job
from nodekit.model.queries import JobFields

MOST_ENDED, MOST_BYTES = 256, 1 << 16
"""Number of ended jobs that are kept, and size of the largest one. Who reads a larger one reserves memory first."""


class Snapshots:
    """The jobs that run, and those that have just ended while somebody waited for them.

    An ended job is given out once, to the one who waited: another process may delete jobs.
    """

    def __init__(self, claims: Mapping[JobId, EmbeddedClaim], feed: ChangeFeed, saving: Saving) -> None:
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

    def get(self, ids: Sequence[JobId], client: ClientId | None, fields: JobFields) -> list[Job]:
        """Return these parts of a job, if it is the only one. Return none if the table has to be asked."""
        if len(ids) != 1 or self._saving.failing:  # then whoever waits has to learn if reads fail, too
            return []
        claim = self._claims.get(ids[0])
        if fields is JobFields.STATE and claim is not None:
            job = replace(claim.job, steps=())
        elif fields is JobFields.LAST_STEP and (found := claim.job if claim else self._ended.pop(ids[0], None)):
            job = replace(found, steps=found.steps[-1:])
        else:
            return []
        return [job] if client is None or client == job.client else []
