"""The rule that says which step of a job is due. Pure, so that it can be asked again after a crash."""

from collections.abc import Mapping
from typing import Protocol

from nodekit.errors import Refusal
from nodekit.model.container import Container, ContainerError, ContainerId, ContainerInput, Location, Step
from nodekit.model.job import Job, JobRequest, JobStatus, Outcome, last_output

BUILT_IN = "sequence"
"""The name of the pipeline that every node has."""


class Pipeline(Protocol):
    """Which step is due, given what was asked and what has happened.

    The same job must always give the same answer: a node asks again after a restart, and another node may ask instead.

    A step runs only in a container that the request names, in any order and any number of times: guards looked at no
    others. The node fails a job whose pipeline goes elsewhere, or does not end within the node's `max_steps`.
    """

    def check(self, request: JobRequest, containers: Mapping[ContainerId, Container]) -> None:
        """Object to a request, by raising `Refusal`. `containers` are all that the node (or its cluster) offers.

        Where the request's `destination` is STREAM and it cannot be known which step will be the last, object.
        """
        ...

    def next_step(self, job: Job) -> Step | None:
        """The step that is due; None when the job is finished.

        Count with `job.results`: the last of `job.steps` may still be open. `Step.index` is how many results there are,
        `Step.attempt` is `job.attempt`.

        In a job whose request has the `destination` STREAM, exactly the last step has it, too: its bytes go to the
        reader as they come, so nothing can follow. The node fails the job where something is to, or where bytes have
        come and then an error, whatever the pipeline makes of that. Where no step streams, the last output goes to the
        reader in one piece.
        """
        ...

    def outcome(self, job: Job) -> Outcome:
        """How a job ends for which `next_step` gave None."""
        ...


class Sequence:
    """The containers of the request in order, output of one being input of the next; the first error ends the job."""

    def check(self, request: JobRequest, containers: Mapping[ContainerId, Container]) -> None:
        """Refuses a request that names no container, or one that the node does not offer."""
        if not request.containers:
            raise Refusal("No containers specified")
        for container in request.containers:
            if container not in containers:
                raise Refusal("Container not supported", container=container)

    def next_step(self, job: Job) -> Step | None:
        """The container after the last result, with that output as its data; None after the last, or after an error."""
        index = len(job.results)
        data = last_output(job)
        if data is None or index == len(job.request.containers):
            return None
        request = job.request
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
        """The last result is the job's."""
        failed = any(isinstance(result, ContainerError) for result in job.results)
        return Outcome(JobStatus.FAILED if failed else JobStatus.SUCCESS)
