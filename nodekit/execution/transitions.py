"""Transitions of a job: the next due step, by its pipeline, and its end. Pure, except that an end reads the clock."""

import logging
from collections.abc import Callable, Mapping

from msgspec.structs import replace

from nodekit.errors import FailureKind, Refusal
from nodekit.interfaces.pipeline import Pipeline
from nodekit.model.clock import NodeClock
from nodekit.model.container import Container, ContainerError, ContainerId, Step
from nodekit.model.counting import counted
from nodekit.model.job import Job, JobRequest, JobStatus, Outcome
from nodekit.model.limits import NodeLimits, finite

logger = logging.getLogger("nodekit.executor")


class Progress:
    """The rules of progress: a node's pipelines, the containers, and the time that jobs may wait for them."""

    def __init__(
        self,
        pipelines: Mapping[str, Pipeline],
        containers: Callable[[str], Mapping[ContainerId, Container]],
        limits: NodeLimits,
        clock: NodeClock,
        *,
        alone: bool = True,
    ) -> None:
        """`containers` returns those in which the jobs of a pipeline may run, on this node or on others.

        Jobs for another container fail if the node is `alone`; otherwise they wait for a node that has it.
        """
        self._alone = alone
        self.claimed = None if alone else tuple(pipelines)
        """Pipelines whose jobs can be run here; None: all."""
        self.clock = clock
        self._pipelines = pipelines
        self._needs_all_outputs = {id for id, one in pipelines.items() if getattr(one, "needs_all_outputs", False)}
        self._containers = containers
        self._now = clock.now
        self._queue_timeout_seconds = finite(limits.queue_timeout_seconds)
        self._max_steps = limits.max_steps

    def check(self, request: JobRequest) -> None:
        """Raise `Refusal` if the request is not acceptable."""
        pipeline = self._pipelines.get(request.pipeline)
        if pipeline is None:
            raise Refusal("Pipeline not supported", pipeline=request.pipeline)
        if len(request.containers) > self._max_steps:
            raise Refusal("Too many containers", max_steps=self._max_steps)
        check: Callable[[JobRequest, Mapping[ContainerId, Container]], object] = pipeline.check
        if (answer := check(request, self._containers(request.pipeline))) is not None:
            raise TypeError(
                f"check returned {answer!r:.200}; return None to let the request in, or raise a Refusal to object"
            )

    def needs_all_outputs(self, job: Job) -> bool:
        """Return True if the pipeline of a job reads other outputs than the last one."""
        return job.request.pipeline in self._needs_all_outputs

    def next_step(self, job: Job) -> Step | None:
        """Return the step that is due, or None.

        None also means that the step may not run or that the pipeline fails; `advance` reports these cases.
        """
        pipeline = self._pipelines.get(job.request.pipeline)
        try:
            step = pipeline.next_step(job) if pipeline else None
        except Exception:
            return None
        return step if step is None or step.container in job.request.containers else None

    def advance(self, job: Job) -> Job:
        """Return the job with its next container set as due, or finished if nothing is due any more."""
        return self.transition(job)[0]

    def transition(self, job: Job) -> tuple[Job, Step | None]:
        """Return the job as `advance` does, with the step that is due. The pipeline is asked once."""
        pipeline = self._pipelines.get(job.request.pipeline)
        if pipeline is None:
            return self.failed(job, f"this node has no pipeline {job.request.pipeline!r}"), None
        try:
            step = pipeline.next_step(job)
            if step is None:
                return job.finished(pipeline.outcome(job), self._now()), None
        except Exception:
            logger.exception("job %s: pipeline %r failed", job.id, job.request.pipeline)
            return self.failed(job, "internal error of the pipeline"), None
        if job.ended_steps >= self._max_steps:
            text = f"its pipeline did not end within {counted(self._max_steps, 'step')}, the `max_steps` of this node"
            return self.failed(job, text), None
        return self._due(job, step.container), step

    def _due(self, job: Job, id: ContainerId) -> Job:
        if id not in job.request.containers:  # guards checked these containers when they admitted the job
            return self.failed(replace(job, due=id), f"its pipeline chose {id!r}, which the request does not name")
        container = self._containers(job.request.pipeline).get(id)
        if container is None and self._alone:
            return self.failed(replace(job, due=id), "this node has no such container")
        seconds = container.queue_timeout_seconds if container else None
        return replace(
            job, due=id, queue_timeout_seconds=self._queue_timeout_seconds if seconds is None else finite(seconds)
        )

    def expired(self, job: Job, age_seconds: float) -> Job:
        """Fail a job that waited in the queue until its time was over."""
        if job.timeout_seconds is not None and age_seconds >= job.timeout_seconds:
            return self.failed(job, job_timeout_text(job), "job_timeout")
        text = f"waited in the queue for more than {job.queue_timeout_seconds or 0:g} s"
        return self.failed(job, text, "queue_timeout")

    def failed(self, job: Job, text: str, kind: FailureKind = "internal") -> Job:
        """Return the job, ended by an error in the container that is due."""
        error = ContainerError(container=job.due or "", error=text, kind=kind)
        return job.finished(Outcome(JobStatus.FAILED, error), self._now())


def job_timeout_text(job: Job) -> str:
    """Return the error text for a job whose time is over."""
    return f"the job was not finished within {job.timeout_seconds or 0:g} s"


def poison_text(takeovers: int) -> str:
    """Return the error text for a job that may end the nodes that run it."""
    times = counted(takeovers, "time")
    return f"poison: nodes that ran it lost it {times} in a row, as when they die; it is not run again"
