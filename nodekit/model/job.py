"""Requests, jobs and their transitions. Pure: every change is a new `Job`; nothing here waits or reads a clock."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from nodekit.errors import FailureKind, NodekitError
from nodekit.model.container import (
    ClientId,
    ContainerError,
    ContainerId,
    ContainerOutput,
    ContainerResult,
    GroupId,
    JobId,
    Location,
)
from nodekit.model.identity import OWN_GROUP, default_group
from nodekit.model.payload import encode_payload


class JobStatus(StrEnum):
    """Progress of a job: accepted → running → success, failed or cancelled."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    CANCELLED = "cancelled"

    finished: bool
    """True if the job will not change any more."""


UNFINISHED = frozenset({JobStatus.ACCEPTED, JobStatus.RUNNING})
for _status in JobStatus:
    _status.finished = _status not in UNFINISHED
FINISHED = frozenset(JobStatus) - UNFINISHED
UNSUCCESSFUL = frozenset({JobStatus.FAILED, JobStatus.CANCELLED})
"""Statuses that clients see as `failed`, and may retry."""

RetryFrom: TypeAlias = Literal["failed", "start"]
"""Start of a retry: the step that failed, or the first one."""


LOWEST_PRIORITY = 7

LEFT_OUT = msgspec.Raw(b"null")
"""Stands for an output that was not read, because outputs may be large (`JobFields.RECORDS`)."""


class JobRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A client's request. A transport fills it in; the client's identity is never taken from a body.

    - `group`: Group whose limits and turns the job counts in. None: that of the client (`default_group`).
    - `address`: IP address that the request came from. None if there is none (a unix socket, the same process).
    - `priority`: Priority; lower runs sooner.
    - `body_digest`: Digest of the body that came with `idempotency_key`.
    - `meta`: Facts that plugins or an embedding program keep with the job, up to 4 KiB. Never taken from a body.
    """

    containers: tuple[ContainerId, ...]
    data: msgspec.Raw
    pipeline: str = "sequence"
    requires_proof: bool = False
    client: ClientId = OWN_GROUP
    group: GroupId | None = None
    address: str | None = None
    origin: Location = Location.OFFCHAIN
    destination: Location = Location.OFFCHAIN
    priority: Annotated[int, msgspec.Meta(ge=0, le=LOWEST_PRIORITY)] = 3
    idempotency_key: str | None = None
    body_digest: str | None = None
    meta: Mapping[str, str] = {}

    @property
    def in_group(self) -> GroupId:
        """Group whose limits and turns the job counts in: `group`, or the default one of the client."""
        client = self.client
        return self.group or (default_group(client) if ":" in client else client)

    @property
    def onchain(self) -> bool:
        """True if the data come from a chain, or the output goes to one: a job of a subscription."""
        return Location.ONCHAIN in (self.origin, self.destination)

    @classmethod
    def of(
        cls, *containers: ContainerId, data: Mapping[str, Any], client: ClientId = OWN_GROUP, pipeline: str = "sequence"
    ) -> "JobRequest":
        """Make a request from plain Python values. Raise `InvalidPayload` for data that JSON cannot hold."""
        return cls(containers=containers, data=encode_payload(data), client=client, pipeline=pipeline)

    def again(
        self,
        *,
        address: str | None,
        priority: int | None,
        idempotency_key: str | None,
        body_digest: str | None,
        group: GroupId | None = None,
    ) -> "JobRequest":
        """Return the request again with the present caller's facts. A stream becomes a job whose output is stored.

        Without a `group`, it stays in the old one.
        """
        return replace(
            self,
            address=address,
            group=self.group if group is None else None if group == default_group(self.client) else group,
            priority=self.priority if priority is None else priority,
            idempotency_key=idempotency_key,
            body_digest=body_digest,
            destination=Location.OFFCHAIN if self.destination is Location.STREAM else self.destination,
        )


class Attempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One call of a container. Times are Unix seconds.

    - `failure`: Error text; None if the call gave an output.
    - `status`: HTTP status of a failure, if there was one.
    """

    started_at: float
    finished_at: float
    instance: str = ""
    kind: FailureKind | None = None
    failure: str | None = None
    status: int | None = None


class Held(msgspec.Struct, frozen=True):
    """The call of a container that is under way for a job, in the container that is due.

    - `node`: Name of the node that makes it.
    - `since`: Time in Unix seconds at which it began.
    - `step`: Index of the step, from 0.
    - `attempt`: Number of the attempt, from 1.
    - `instance`: Running instance that is called; empty if it is not known.
    """

    node: str
    since: float
    step: int
    attempt: int
    instance: str = ""


class StepRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The record of one step. The last step of a job may still be open."""

    container: ContainerId
    attempts: tuple[Attempt, ...] = ()
    result: ContainerResult | None = None


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """The end of a job.

    - `status`: Final status: success, failed or cancelled.
    - `result`: Result of the job. None means the result of its last step (or, for a cancelled job, an error that says
      so).
    """

    status: JobStatus
    result: ContainerResult | None = None

    def check(self) -> None:
        """Raise `NodekitError` if this is not the end of a job."""
        status: Any = self.status
        if status not in FINISHED or not isinstance(status, JobStatus):
            raise NodekitError(f"status: a job ends with success, failed or cancelled, not with {status!r}")


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted request and its progress. Times are Unix seconds.

    - `due`: Container of the next step. The node sets it from the pipeline before it stores the job.
    - `not_before`: Time before which the next step must not start.
    - `delay_seconds`: Delay from which `not_before` was computed. It limits the wait if the clock jumps.
    - `timeout_seconds`: Maximum time from the job's acceptance to its end; None: no limit.
    - `queue_timeout_seconds`: Maximum time in the queue for the due container. The node sets it together with `due`.
    - `retry_of`: Id of the job that this one retries. Its data is that job's, and so are the steps that it begins with:
      a store may refer to them instead of keeping them twice.
    - `finish_number`: Number that the store gives the job when it ends; None until then. Jobs that end later get higher
      numbers.
    """

    id: JobId
    request: JobRequest
    accepted_at: float
    status: JobStatus = JobStatus.ACCEPTED
    due: ContainerId | None = None
    not_before: float | None = None
    delay_seconds: float | None = None
    timeout_seconds: float | None = None
    queue_timeout_seconds: float | None = None
    steps: tuple[StepRecord, ...] = ()
    outcome: Outcome | None = None
    finished_at: float | None = None
    retry_of: JobId | None = None
    finish_number: int | None = None

    @property
    def client(self) -> ClientId:
        """Client that may read the job."""
        return self.request.client

    @property
    def group(self) -> GroupId:
        """Group whose limits and turns the job counts in."""
        return self.request.in_group

    @property
    def result(self) -> ContainerResult | None:
        """Result of the job once it is finished."""
        if self.outcome is None:
            return None
        return self.outcome.result or (self.steps[-1].result if self.steps else None)

    @property
    def error(self) -> ContainerError | None:
        """Error of a failed or cancelled job; None if it did not fail, or if its result is no error."""
        return self.result if self.status in UNSUCCESSFUL and isinstance(self.result, ContainerError) else None

    @property
    def results(self) -> Sequence[ContainerResult]:
        """Results of the finished steps, in order."""
        return [record.result for record in self.steps if record.result is not None]

    @property
    def ended_steps(self) -> int:
        """Number of finished steps."""
        steps = self.steps
        return len(steps) - (bool(steps) and steps[-1].result is None)

    @property
    def intermediate_results(self) -> Sequence[ContainerResult]:
        """Results of the finished steps, without the one that is the job's result."""
        if self.outcome is not None and self.outcome.result is None:
            return self.results[:-1]
        return self.results

    @property
    def attempt(self) -> int:
        """Number of the next attempt of the due step, from 1. Interrupted ones are made again, and do not count."""
        if (step := self._open) is None:
            return 1
        return sum(one.kind != "interrupted" for one in step.attempts) + 1

    @property
    def payload_bytes(self) -> int:
        """Number of bytes of its payloads: the data, the outputs of its steps, and an output from elsewhere."""
        size = len(memoryview(self.request.data))
        if self.outcome is not None:
            size += result_bytes(self.outcome.result)
        for step in self.steps:
            size += result_bytes(step.result)
        return size

    @property
    def _open(self) -> StepRecord | None:
        return self.steps[-1] if self.steps and self.steps[-1].result is None else None

    def retrying(self, old: "Job", start: RetryFrom) -> "Job":
        """Return this new job as a retry of `old`.

        It takes over the steps up to the last output, or none if `start` is "start". `old` was in this state once, so
        its pipeline, asked again, names the step that followed then.
        """
        outputs = [number for number, step in enumerate(old.steps, 1) if isinstance(step.result, ContainerOutput)]
        kept = old.steps[: outputs[-1]] if outputs and start == "failed" else ()
        return replace(self, retry_of=old.id, steps=kept)

    def with_result(self, result: ContainerResult, attempt: Attempt) -> "Job":
        """Return the job with the result of the due step: an output, or the error that ends the step."""
        return self._with_attempt(result.container, attempt, result)

    def cut_short(self, call: Held, at: float, kind: FailureKind, text: str) -> "Job":
        """Return the job with a call that ended without a result. A call of a step that is not due changes nothing.

        An attempt of the kind ``interrupted`` is not counted by `attempt`, since the container is not to blame.
        """
        if self.status.finished or self.due is None or call.step != self.ended_steps:
            return self
        cut = Attempt(started_at=call.since, finished_at=at, instance=call.instance, kind=kind, failure=text)
        return self.with_failure(self.due, cut)

    def with_failure(self, container: ContainerId, attempt: Attempt) -> "Job":
        """Return the job with a failed attempt; the step stays due."""
        return self._with_attempt(container, attempt, None)

    def _with_attempt(self, container: ContainerId, attempt: Attempt, result: ContainerResult | None) -> "Job":
        step = self._open
        earlier, before = (step.attempts, self.steps[:-1]) if step else ((), self.steps)
        record = StepRecord(container=container, attempts=(*earlier, attempt), result=result)
        return replace(self, status=JobStatus.RUNNING, steps=(*before, record), not_before=None, delay_seconds=None)

    def without_earlier_outputs(self) -> "Job":
        """Return the job with `LEFT_OUT` for all outputs but the last one."""
        with_output = [place for place, step in enumerate(self.steps) if _has_output(step)]
        if len(with_output) < 2:
            return self
        last = with_output[-1]
        return replace(self, steps=(*map(_without_output, self.steps[:last]), *self.steps[last:]))

    @property
    def lacks_outputs(self) -> bool:
        """True if an output is `LEFT_OUT`, or is a JSON null."""
        return any(isinstance(step.result, ContainerOutput) and not _has_output(step) for step in self.steps)

    def over(self, stored: "Job") -> "Job":
        """Return this newer state of a stored job with the request and the ended steps of that one.

        The newer state may lack their outputs; they never change.
        """
        return replace(
            self, request=stored.request, steps=(*stored.steps[: (n := stored.ended_steps)], *self.steps[n:])
        )

    def ended_as(self, other: "Job") -> bool:
        """Return True if both are the same finished job, whichever outputs they hold, and whatever number it has."""
        one, two = (replace(job, steps=(), finish_number=None) for job in (self, other))
        return one == two and self.status.finished and self.ended_steps == other.ended_steps

    def finished(self, outcome: Outcome, at: float) -> "Job":
        """Return the job with its end; the first end is the only one.

        Raise `NodekitError` for an outcome that is no end.
        """
        if self.status.finished:
            return self
        outcome.check()
        if outcome.status is JobStatus.CANCELLED and outcome.result is None:
            error = ContainerError(container=self.due or "", error="cancelled", kind="cancelled")
            outcome = Outcome(outcome.status, error)
        return replace(
            self,
            status=outcome.status,
            outcome=outcome,
            finished_at=at,
            due=None,
            not_before=None,
            delay_seconds=None,
            queue_timeout_seconds=None,
        )


def _has_output(step: StepRecord) -> bool:
    return isinstance(step.result, ContainerOutput) and step.result.output != LEFT_OUT


def _without_output(step: StepRecord) -> StepRecord:
    if not isinstance(step.result, ContainerOutput):
        return step
    return replace(step, result=replace(step.result, output=LEFT_OUT))


def last_output(job: Job) -> msgspec.Raw | None:
    """Return the input of the next step of a sequence: the last finished step's output, or else the request's data.

    Return None if that step ended with an error.
    """
    results = job.results
    return output_of(results[-1]) if results else job.request.data


def output_of(result: ContainerResult) -> msgspec.Raw | None:
    """Return the output of a step, or None if it ended with an error."""
    return result.output if isinstance(result, ContainerOutput) else None


def result_bytes(result: ContainerResult | None) -> int:
    """Return the number of bytes of an output; 0 if there is none."""
    return len(memoryview(result.output)) if isinstance(result, ContainerOutput) else 0


def outcome_bytes(outcome: Outcome | None) -> int:
    """Return the number of bytes of an output that came with the end of a job; 0 if there is none."""
    return 0 if outcome is None else result_bytes(outcome.result)
