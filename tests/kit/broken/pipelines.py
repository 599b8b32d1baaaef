"""Pipelines that break a promise each. `tests/kit/test_caught.py` runs the suite on them."""

import time
from collections.abc import Mapping
from itertools import count

import msgspec
import pytest
from msgspec.structs import replace

from nodekit import (
    Container,
    ContainerError,
    ContainerOutput,
    Job,
    JobRequest,
    JobStatus,
    Location,
    Outcome,
    Pipeline,
    Sequence,
    Step,
    decode_payload,
    last_output,
)
from nodekit.testing import PipelineContract


class ThrowsDice(Sequence):
    """Chooses a random container each time."""

    def __init__(self) -> None:
        self.dice = count()

    def next_step(self, job: Job) -> Step | None:
        step = super().next_step(job)
        return step and replace(step, container=job.request.containers[next(self.dice) % len(job.request.containers)])


class ReadsTheClock(Sequence):
    """Chooses other containers next month."""

    def __init__(self) -> None:
        self.made_at = time.time()

    def next_step(self, job: Job) -> Step | None:
        step = super().next_step(job)
        late = time.time() > self.made_at + 30 * 86_400
        return step and replace(step, container=job.request.containers[0] if late else step.container)


class LooksBack(Sequence):
    """Gives the output of the first step to all further ones."""

    def next_step(self, job: Job) -> Step | None:
        step = super().next_step(job)
        first = job.results[0] if len(job.results) > 1 else None
        if step is None or not isinstance(first, ContainerOutput):
            return step
        return replace(step, input=replace(step.input, data=first.output))


class RemembersItsJobs(Sequence):
    """Treats a job as new when it sees it for the first time."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def next_step(self, job: Job) -> Step | None:
        step = super().next_step(job)
        number = len(job.results) - self.seen.setdefault(job.id, len(job.results))
        return step and replace(step, container=job.request.containers[number])


class ChangesTheJob(Sequence):
    def next_step(self, job: Job) -> Step | None:
        msgspec.structs.force_setattr(job.request, "priority", 0)
        return super().next_step(job)


class ChangesWhatIsOffered(Sequence):
    def check(self, request: JobRequest, containers: Mapping[str, Container]) -> None:
        super().check(request, containers)
        containers.pop(request.containers[0])  # type: ignore[attr-defined]


class CountsFromOne(Sequence):
    def next_step(self, job: Job) -> Step | None:
        step = super().next_step(job)
        return step and replace(step, index=step.index + 1)


class IsAlwaysTheFirstAttempt(Sequence):
    def next_step(self, job: Job) -> Step | None:
        step = super().next_step(job)
        return step and replace(step, attempt=1)


class NeverEnds(Sequence):
    def next_step(self, job: Job) -> Step | None:
        step = super().next_step(replace(job, steps=()))
        return step and replace(step, index=len(job.results), attempt=job.attempt)


class TriesForEver(Sequence):
    """Calls a failed container again, as a new step."""

    def next_step(self, job: Job) -> Step | None:
        done = tuple(step for step in job.steps if not isinstance(step.result, ContainerError))
        step = super().next_step(replace(job, steps=done))
        return step and replace(step, index=len(job.results), attempt=job.attempt)

    def outcome(self, job: Job) -> Outcome:
        return Outcome(JobStatus.SUCCESS)


class LosesTheOutcome(Sequence):
    def outcome(self, job: Job) -> Outcome:
        return Outcome(JobStatus.SUCCESS)


class ChokesOnOutputs(Sequence):
    """Assumes that every output is an object with a `text`."""

    def next_step(self, job: Job) -> Step | None:
        step = super().next_step(job)
        if step and job.results and (data := last_output(job)):
            assert decode_payload(data)["text"]
        return step


class ChecksNothing(Sequence):
    def check(self, request: JobRequest, containers: Mapping[str, Container]) -> None:
        pass


class ChecksByAccident(Sequence):
    def check(self, request: JobRequest, containers: Mapping[str, Container]) -> None:
        for container in [request.containers[0], *request.containers]:
            assert containers[container].id


class GoesElsewhere(Sequence):
    """Names a container that no runner has for the last step."""

    def next_step(self, job: Job) -> Step | None:
        step = super().next_step(job)
        last = step and step.index == len(job.request.containers) - 1
        return replace(step, container="elsewhere") if step and last else step


class GoesPastTheGuards(Sequence):
    """Names an existing container for the last step that the request does not name."""

    def check(self, request: JobRequest, containers: Mapping[str, Container]) -> None:
        super().check(replace(request, containers=(*request.containers, "other")), containers)

    def next_step(self, job: Job) -> Step | None:
        step = super().next_step(job)
        last = step and step.index == len(job.request.containers) - 1
        return replace(step, container="other") if step and last else step


class StreamsEveryStep(Sequence):
    def next_step(self, job: Job) -> Step | None:
        step = super().next_step(job)
        return step and replace(step, input=replace(step.input, destination=job.request.destination))


class NeverStreams(Sequence):
    def next_step(self, job: Job) -> Step | None:
        return super().next_step(replace(job, request=replace(job.request, destination=Location.OFFCHAIN)))


class Suite(PipelineContract):
    subject: type[Pipeline]

    @pytest.fixture
    def pipeline(self) -> Pipeline:
        return self.subject()


Sound, HURRIED = Sequence, {"timeout_seconds": 5.0}
