"""What a node says happened: facts in the past tense, stored before they are told."""

from typing import TypeAlias

import msgspec

from nodekit.job import Job, StepRecord


class JobAccepted(msgspec.Struct, frozen=True):
    """A job is kept and queued."""

    job: Job


class StepFinished(msgspec.Struct, frozen=True):
    """A step has its result, an output or an error."""

    job: Job
    """As it was stored with the result."""
    index: int

    @property
    def record(self) -> StepRecord:
        return self.job.steps[self.index]


class JobFinished(msgspec.Struct, frozen=True):
    """A job has ended: success, failed or cancelled."""

    job: Job


Event: TypeAlias = JobAccepted | StepFinished | JobFinished
