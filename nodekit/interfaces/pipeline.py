"""The rule that decides which step of a job is due. Pure, so that it can be applied again after a crash."""

from collections.abc import Mapping
from typing import Protocol

from nodekit.errors import Refusal
from nodekit.model.container import Container, ContainerError, ContainerId, ContainerInput, Location, Step
from nodekit.model.job import Job, JobRequest, JobStatus, Outcome, output_of

BUILT_IN = "sequence"
"""Name of the pipeline that every node has."""


class Pipeline(Protocol):
    """A rule that decides which step is due, from the request and the results so far.

    The same job must always give the same answer: a node asks again after a restart, and another node may ask instead.

    A step runs only in a container that the request names, in any order and any number of times, because guards have
    checked no others. The node fails a job whose pipeline goes elsewhere, or does not end within the node's
    `max_steps`.
    """

    def check(self, request: JobRequest, containers: Mapping[ContainerId, Container]) -> None:
        """Raise `Refusal` if the request is not acceptable. `containers` are all that the node (or its cluster) has.

        If the request's `destination` is STREAM and the last step cannot be known in advance, refuse it.
        """
        ...

    def next_step(self, job: Job) -> Step | None:
        """Return the step that is due, or None when the job is finished.

        The job has the request and all steps, but of the outputs only the last one: a job that runs holds no more in
        memory. Earlier ones are `LEFT_OUT`, unless the pipeline has an attribute `needs_all_outputs`, which is true.

        Count with `job.results`: the last of `job.steps` may still be open. `Step.index` is the number of results,
        `Step.attempt` is `job.attempt`.

        If the request's `destination` is STREAM, exactly the last step has this destination, too: its bytes go to the
        reader as they arrive, so no step can follow. The node fails the job if a step follows, or if an error follows
        after bytes were sent, whatever the pipeline decides. If no step streams, the last output goes to the reader in
        one piece.
        """
        ...

    def outcome(self, job: Job) -> Outcome:
        """Return the end of a job for which `next_step` returned None."""
        ...


class Sequence:
    """The containers of the request in order. Each output is the next input; the first error ends the job."""

    def check(self, request: JobRequest, containers: Mapping[ContainerId, Container]) -> None:
        """Raise `Refusal` if the request names no container, or one that the node does not have."""
        if not request.containers:
            raise Refusal("No containers specified")
        for container in request.containers:
            if container not in containers:
                raise Refusal("Container not supported", container=container)

    def next_step(self, job: Job) -> Step | None:
        """Return a step in the container after the last result, with its output as data.

        Return None after the last container or an error.
        """
        request, index = job.request, job.ended_steps
        result = job.steps[index - 1].result if index else None
        data = request.data if result is None else output_of(result)
        if data is None or index == len(request.containers):
            return None
        last = index == len(request.containers) - 1
        return Step(
            job_id=job.id,
            index=index,
            attempt=job.attempt,
            container=request.containers[index],
            input=ContainerInput(
                source=request.origin if index == 0 else Location.OFFCHAIN,
                destination=request.destination if last else Location.OFFCHAIN,
                data=data,
                requires_proof=request.requires_proof,
            ),
        )

    def outcome(self, job: Job) -> Outcome:
        """Return success, or failure if there is an error. The last result is the job's result."""
        for step in job.steps:
            if isinstance(step.result, ContainerError):
                return Outcome(JobStatus.FAILED)
        return Outcome(JobStatus.SUCCESS)
