"""Walks: a job taken through a pipeline as a node does it, but without a node."""

from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace

from nodekit import ContainerError, ContainerResult, Job, Pipeline, Step
from nodekit.testing.builders.jobs import make_attempt


class Walk(NamedTuple):
    """The way of a job through a pipeline."""

    jobs: list[Job]
    """States of the job each time the pipeline was asked."""
    steps: list[Step]
    """Answers of the pipeline. There is none for the last job if it `ended`, because no step was due."""
    ended: bool
    error: Exception | None
    """Error that the pipeline raised about the last job instead of an answer."""

    @property
    def job(self) -> Job:
        return self.jobs[-1]


def walk(pipeline: Pipeline, job: Job, answer: Callable[[Step, int], ContainerResult], max_steps: int) -> Walk:
    """Ask for at most `max_steps` steps and answer each. `answer` gets the step and the number of steps before it."""
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
