"""Questions to a store: which jobs, and which parts of them."""

from collections.abc import Collection, Iterable, Sequence
from enum import Flag
from typing import Literal, TypeAlias

import msgspec

from nodekit.model.container import ClientId, ContainerId, JobId
from nodekit.model.job import Job, JobStatus

Cursor: TypeAlias = str
"""A place in an order of jobs, as `JobQuery.cursor` returns it."""
MAX_CURSOR_DIGITS = 18
"""Maximum length of the cursor of the order ``finished``: a number that stores keep in 64 bits."""
JobOrder: TypeAlias = Literal["oldest", "newest", "finished"]
"""Orders of `JobQuery`."""


class JobQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A choice of jobs: those that match all fields, in an order. A field that is None matches every job.

    Raise `ValueError` if a cursor of the order ``finished`` is not a number.

    - `status`: Statuses of which the job has one.
    - `container`: Container of the error with which the job ended (`Job.error`). A job without an error does not match.
    - `error`: Part of the text of that error, case-sensitive. A job without an error does not match, whatever the text.
    - `order`: ``oldest`` or ``newest`` first, by id; or ``finished``: finished jobs only, first the one that finished
      first. A job that finishes later always comes behind those that were found.
    - `after`: Cursor behind which the job comes in this order. There need not be a job there.
    - `before`: Cursor before which the job comes in this order.
    - `limit`: Maximum number of jobs.
    """

    client: ClientId | None = None
    status: Collection[JobStatus] | None = None
    idempotency_key: str | None = None
    container: ContainerId | None = None
    error: str | None = None
    order: JobOrder = "oldest"
    after: Cursor | None = None
    before: Cursor | None = None
    limit: int = 1000

    def __post_init__(self) -> None:
        if self.order == "finished":
            for name, cursor in (("after", self.after), ("before", self.before)):
                if cursor is not None and not (
                    cursor.isascii() and cursor.isdecimal() and len(cursor) <= MAX_CURSOR_DIGITS
                ):
                    raise ValueError(f"{name}: expected a cursor of the order finished, got {cursor!r}")

    def cursor(self, job: Job) -> Cursor:
        """Return the cursor of a job in this order: its id or, in the order ``finished``, its `finish_number`.

        Raise `ValueError` if the job has no such number: it is not in that order.
        """
        if self.order != "finished":
            return job.id
        if job.finish_number is None:
            raise ValueError(f"job {job.id} has no finish_number; read it from the store again once it has finished")
        return str(job.finish_number)

    def choose(self, jobs: Iterable[Job]) -> list[JobId]:
        """Return the ids of the jobs that match, in this order, at most `limit`."""
        matching = [job for job in jobs if self.matches(job)]
        matching.sort(key=self._key, reverse=self.order == "newest")
        return [job.id for job in matching[: self.limit]]

    def _key(self, job: Job) -> tuple[int, JobId]:
        return (job.finish_number or 0 if self.order == "finished" else 0), job.id

    def matches(self, job: Job) -> bool:
        """Return True if the job matches all fields."""
        return (
            self.client in (None, job.client)
            and (self.status is None or job.status in self.status)
            and self.idempotency_key in (None, job.request.idempotency_key)
            and self._is_between(job)
            and ((self.container is None and self.error is None) or self._matches_error(job))
        )

    def _is_between(self, job: Job) -> bool:
        if self.order == "finished":
            number, after, before = job.finish_number, self.after, self.before
            return (
                number is not None
                and (after is None or number > int(after))
                and (before is None or number < int(before))
            )
        after, before = (self.after, self.before) if self.order == "oldest" else (self.before, self.after)
        return (after is None or job.id > after) and (before is None or job.id < before)

    def _matches_error(self, job: Job) -> bool:
        error = job.error
        return (
            error is not None
            and self.container in (None, error.container)
            and (self.error is None or self.error in error.error)
        )


EVERY_JOB = JobQuery()


class Page(msgspec.Struct, frozen=True):
    """Some of the jobs that match a query, in its order.

    - `next`: Cursor behind which the search goes on; None: no more jobs match. With a cursor, a page may have fewer
      jobs than its query's limit, or none: the store has looked at many jobs, and lets others have their turn.
    """

    ids: Sequence[JobId]
    next: Cursor | None = None


class JobFields(Flag):
    """Parts of a job that a caller reads. The store may leave out the others, because they may be large.

    The other fields of a job, and `client`, `group`, `priority`, `pipeline`, `origin` and `destination` of its request,
    are always there. A job that was read in part is never stored, unless the parts are those of `RUN`.
    """

    STATE = 0
    """Nothing but what is always there."""
    REQUEST = 1
    """The whole request, with its data."""
    LAST_STEP = 2
    """The last step. It holds the result of a successful job."""
    RECORDS = 6
    """All steps. All outputs but the last one are `LEFT_OUT`."""
    STEPS = 14
    """All steps."""
    RUN = 7
    """The parts that go on from one step to the next: request and records. Such a job may be stored again."""
    ALL = 15

    def __repr__(self) -> str:
        return str(self)  # as it is written in code, since signatures show it
