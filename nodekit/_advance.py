"""What is due next in a job, by its pipeline. Pure but for the end's time."""

import logging
import time
from collections.abc import Container as Holds

from msgspec.structs import replace

from nodekit.container import ContainerError, ContainerId, Step
from nodekit.job import Job, JobStatus, Outcome
from nodekit.pipeline import Pipeline

logger = logging.getLogger("nodekit.executor")


def next_step(job: Job, pipeline: Pipeline | None) -> Step | None:
    """The step that is due; None too where there is no pipeline or it breaks, as `advance` will say."""
    try:
        return pipeline.next_step(job) if pipeline else None
    except Exception:
        return None


def advance(job: Job, pipeline: Pipeline | None, containers: Holds[ContainerId]) -> Job:
    """The job with its next container set as due, or finished where nothing is due any more."""
    if pipeline is None:
        return _failed(job, f"this node offers no pipeline {job.request.pipeline!r}")
    try:
        step = pipeline.next_step(job)
        if step is None:
            return job.finished(pipeline.outcome(job), time.time())
    except Exception:
        logger.exception("job %s: pipeline %r failed", job.id, job.request.pipeline)
        return _failed(job, "internal error of the pipeline")
    if step.container not in containers:
        return _failed(replace(job, due=step.container), "this node offers no such container")
    return replace(job, due=step.container)


def stray(job: Job) -> Job:
    """The end of a job whose pipeline names another step each time it is asked."""
    return _failed(job, f"the pipeline {job.request.pipeline!r} contradicts itself")


def _failed(job: Job, text: str) -> Job:
    error = ContainerError(container=job.due or "", error=text)
    return job.finished(Outcome(JobStatus.FAILED, error), time.time())
