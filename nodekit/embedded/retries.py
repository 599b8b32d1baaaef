"""Retries, which begin with outputs of the job that they retry."""

from msgspec.structs import replace

from nodekit.errors import StoreFailed
from nodekit.interfaces.store import JobTable
from nodekit.model.job import Job
from nodekit.model.queries import JobFields


async def whole_retry(table: JobTable, job: Job) -> Job:
    """Return a new job with the outputs that are left out in it, read from the job that it retries.

    A table that shares payloads between jobs does not need them. Raise `StoreFailed` if the old job is gone.
    """
    if job.retry_of is None or getattr(table, "shares_payloads", False) or not job.lacks_outputs:
        return job
    for old in await table.get([job.retry_of], fields=JobFields.STEPS):
        return replace(job, steps=(*old.steps[: job.ended_steps], *job.steps[job.ended_steps :]))
    raise StoreFailed(f"job {job.retry_of}, which is retried, has been deleted meanwhile")
