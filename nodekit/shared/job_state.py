"""The part of a job that changes, as one small row."""

from collections.abc import Sequence
from typing import Any

import msgspec

from nodekit.model.container import ClientId, ContainerId, GroupId, JobId, Location
from nodekit.model.job import Job, JobRequest, JobStatus, Outcome, StepRecord


class JobState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The fields of a job that change, its open step, and the facts of its request that a queue needs.

    The request, its data and the ended steps are rows of their own, which are written once. The encoded form is JSON.
    Releases read each other's rows: fields may come, with defaults, and those that are here stay.
    """

    accepted_at: float
    status: JobStatus
    due: ContainerId | None = None
    not_before: float | None = None
    delay_seconds: float | None = None
    timeout_seconds: float | None = None
    queue_timeout_seconds: float | None = None
    outcome: Outcome | None = None
    finished_at: float | None = None
    retry_of: JobId | None = None
    open_step: StepRecord | None = None
    group: GroupId | None = None
    priority: int = 3
    pipeline: str = "sequence"
    origin: Location = Location.OFFCHAIN
    destination: Location = Location.OFFCHAIN

    @classmethod
    def encoded(cls, job: Job) -> bytes:
        """Return the row of a job."""
        facts: dict[str, Any] = {name: getattr(job, name) for name in _OF_JOB}
        facts |= {name: getattr(job.request, name) for name in _OF_REQUEST}
        return _encode(cls(open_step=job.steps[-1] if len(job.steps) > job.ended_steps else None, **facts))

    @staticmethod
    def decoded(row: bytes) -> "JobState":
        """Return the state in a row. Raise `msgspec.DecodeError` if it is damaged."""
        return _decode(row)

    def job(
        self,
        id: JobId,
        client: ClientId,
        *,
        request: JobRequest | None = None,
        steps: Sequence[StepRecord] = (),
        open_step: bool = True,
        finish_number: int | None = None,
    ) -> Job:
        """Return the job of this state and the rows that were read.

        Without a request, it has the facts that are here, and no containers and data. `open_step` says whether a step
        that has not ended follows `steps`.
        """
        opened = (self.open_step,) if open_step and self.open_step is not None else ()
        return Job(
            id=id,
            request=self._request(client) if request is None else request,
            steps=(*steps, *opened),
            finish_number=finish_number,
            **{name: getattr(self, name) for name in _OF_JOB},
        )

    def _request(self, client: ClientId) -> JobRequest:
        facts: dict[str, Any] = {name: getattr(self, name) for name in _OF_REQUEST}
        return JobRequest(containers=(), data=msgspec.Raw(), client=client, **facts)


_FIELDS = JobState.__struct_fields__
_OF_JOB = _FIELDS[: _FIELDS.index("open_step")]
_OF_REQUEST = _FIELDS[_FIELDS.index("group") :]
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(JobState).decode
