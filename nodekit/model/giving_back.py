"""The job as it is stored once its claim is given back, and the end of a stream that nobody holds any more."""

from collections.abc import Callable

from msgspec.structs import replace

from nodekit.model.container import ContainerError, ContainerId, Location
from nodekit.model.job import Job, JobStatus, Outcome


def interrupted_outcome(container: ContainerId) -> Outcome:
    """Return the end of a stream that no node holds any more."""
    return Outcome(JobStatus.FAILED, ContainerError(container=container, error="interrupted", kind="interrupted"))


def given_back(job: Job, delay_seconds: float, time: Callable[[], float]) -> Job:
    """Return the job as it is stored once its claim is given back: due after the delay; a stream has failed.

    `time` is asked for the Unix time, if the job needs one.
    """
    if job.status.finished:
        return job
    if job.request.destination is Location.STREAM:
        return job.finished(interrupted_outcome(job.due or ""), time())
    if delay_seconds > 0:
        return replace(job, not_before=time() + delay_seconds, delay_seconds=delay_seconds)
    return job if job.not_before is None else replace(job, not_before=None, delay_seconds=None)
