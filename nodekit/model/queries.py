"""Questions to a store: which jobs, and which parts of them."""

from collections.abc import Collection
from enum import Flag

import msgspec

from nodekit.model.container import ClientId, ContainerId, JobId
from nodekit.model.job import Job, JobStatus


class JobQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A choice of jobs: those that match all fields. A field that is None matches every job.

    - `status`: Statuses of which the job has one.
    - `container`: Container of the error with which the job ended (`Job.error`). A job without an error does not match.
    - `error`: Part of the text of that error, case-sensitive. A job without an error does not match, whatever the text.
    - `after`: Id behind which the job's id sorts. Ids sort by age. There need not be a job of this id.
    - `limit`: Maximum number of jobs.
    """

    client: ClientId | None = None
    status: Collection[JobStatus] | None = None
    idempotency_key: str | None = None
    container: ContainerId | None = None
    error: str | None = None
    after: JobId | None = None
    limit: int = 1000

    def matches(self, job: Job) -> bool:
        """Return True if the job matches all fields."""
        return (
            self.client in (None, job.client)
            and (self.status is None or job.status in self.status)
            and self.idempotency_key in (None, job.request.idempotency_key)
            and (self.after is None or job.id > self.after)
            and ((self.container is None and self.error is None) or self._matches_error(job))
        )

    def _matches_error(self, job: Job) -> bool:
        error = job.error
        return (
            error is not None
            and self.container in (None, error.container)
            and (self.error is None or self.error in error.error)
        )


EVERY_JOB = JobQuery()


class JobFields(Flag):
    """Parts of a job that a caller reads. The store may leave out the others, because they may be large.

    The other fields of a job, and `client`, `group`, `priority`, `origin` and `destination` of its request, are always
    there. A job that was read in part is never stored.
    """

    STATE = 0
    """Nothing but what is always there."""
    REQUEST = 1
    """The whole request, with its data."""
    LAST_STEP = 2
    """The last step. It holds the result of a successful job."""
    STEPS = 6
    """All steps."""
    ALL = 7

    def __repr__(self) -> str:
        return str(self)  # as it is written in code, since signatures show it
