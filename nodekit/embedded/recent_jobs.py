"""Jobs that were just stored and wait to be claimed, so that most need not be read back. Their size is bounded."""

from nodekit.model.container import JobId
from nodekit.model.job import Job

MAX_BYTES = 32 * 1024 * 1024
_OVERHEAD_BYTES = 2048


class RecentJobs:
    """Snapshots of queued jobs. A job that does not fit is left out."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._jobs: dict[JobId, Job] = {}
        self._free = max_bytes

    def put(self, job: Job) -> None:
        """Remember a job without steps: its size is that of its request. Other jobs are ignored."""
        if (size := _size(job)) <= self._free and not job.steps and job.id not in self._jobs:
            self._jobs[job.id] = job
            self._free -= size

    def get(self, id: JobId) -> Job | None:
        return self._jobs.get(id)

    def pop(self, id: JobId) -> Job | None:
        job = self._jobs.pop(id, None)
        if job is not None:
            self._free += _size(job)
        return job


def _size(job: Job) -> int:
    return len(memoryview(job.request.data)) + _OVERHEAD_BYTES
