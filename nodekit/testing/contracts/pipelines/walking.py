"""Taking a job through a pipeline as a node does, without one."""

from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace

from nodekit import ContainerError, ContainerResult, Job, Pipeline, Step
from nodekit.testing.builders.jobs import make_attempt


class Walk(NamedTuple):
    """What a pipeline made of a job."""

    jobs: list[Job]
    """As the job was each time the pipeline was asked."""
    steps: list[Step]
    """What it answered; of the last job, that nothing is due, where that is how it `ended`."""
    ended: bool
    error: Exception | None
    """What it raised about the last job instead."""

    @property
    def job(self) -> Job:
        return self.jobs[-1]


def walk(pipeline: Pipeline, job: Job, answer: Callable[[Step, int], ContainerResult], max_steps: int) -> Walk:
    """Ask for step after step, at most so many, and answer each; the answer is told how many there were before."""
    jobs, steps = [job], list[Step]()
    try:
        while (step := pipeline.next_step(job)) is not None and len(steps) < max_steps:
            steps.append(step)
            result = answer(step, len(steps) - 1)
            failure = result.error if isinstance(result, ContainerError) else None
            job = replace(job, due=step.container).with_result(result, make_attempt(failure=failure))
            jobs.append(job := replace(job, due=None))
    except Exception as error:
        return Walk(jobs, steps, False, error)
    return Walk(jobs, steps, step is None, None)
