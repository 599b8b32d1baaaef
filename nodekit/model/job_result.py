"""The JobResult of a job: what clients get of it, the same over every transport."""

from typing import Literal, TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

from nodekit.model.container import ContainerError, ContainerId, ContainerResult, JobId
from nodekit.model.job import Job, JobStatus

ResultStatus: TypeAlias = Literal["running", "success", "failed"]
"""The status of a job for its client. A waiting job is `running`, a cancelled one `failed`."""


class StepResult(msgspec.Struct, frozen=True):
    """The result of a step, as the client gets it: an output or an error.

    - `error`: Error that ended the step or the job.
    """

    container: ContainerId
    output: Raw | UnsetType = UNSET
    error: str | UnsetType = UNSET


class JobResult(msgspec.Struct, frozen=True):
    """A job as its client gets it; ``msgspec.json.encode`` gives its JSON.

    - `result`: Result of the last step, or the error that ended the job. None until then.
    - `intermediate_results`: Results of the other finished steps; left out unless they were asked for.
    """

    id: JobId
    status: ResultStatus
    result: StepResult | None
    intermediate_results: list[StepResult] | UnsetType = UNSET


def job_result(job: Job, *, intermediate: bool = False) -> JobResult:
    """Return the JobResult of a job. It needs the last step (`JobFields.LAST_STEP`), with `intermediate` all steps."""
    result = None if job.result is None else step_result(job.result)
    results = [step_result(result) for result in job.intermediate_results] if intermediate else UNSET
    return JobResult(job.id, result_status(job), result, results)


def result_status(job: Job) -> ResultStatus:
    """Return the status of a job for its client."""
    if not job.status.finished:
        return "running"
    return "success" if job.status is JobStatus.SUCCESS else "failed"


def step_result(result: ContainerResult) -> StepResult:
    """Return the result of a step for its client: without the instance, and without the kind of an error."""
    if isinstance(result, ContainerError):
        return StepResult(result.container, error=result.error)
    return StepResult(result.container, output=result.output)
