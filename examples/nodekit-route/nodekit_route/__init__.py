"""The pipeline `route`: the output of a container names the next one, among the containers in the request.

The output `{"next": "ask", …}` is the input of `ask`. An output that names no container is the result of the job.
"""

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta, Struct, ValidationError, json, structs

import nodekit
from nodekit import Container, ContainerError, Job, JobRequest, JobStatus, Outcome, Provider, Refusal, Step, last_output


class RouteConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table of the pipeline in a node file.

    - `max_steps`: Maximum number of steps of a job. A job whose outputs go on naming containers fails.
    """

    max_steps: Annotated[int, Meta(ge=1)] = 20


class Output(Struct):
    next: object = None  # other fields are not read


class RoutePipeline(nodekit.Sequence):
    """A pipeline that follows the outputs. The steps so far are a sequence, which knows how to call and how to fail."""

    def __init__(self, config: RouteConfig) -> None:
        self._max_steps = config.max_steps

    def check(self, request: JobRequest, containers: Mapping[str, Container]) -> None:
        super().check(request, containers)
        if request.destination is not nodekit.Location.OFFCHAIN:  # needs the last container, which is not known yet
            raise Refusal("Last container is not known")

    def next_step(self, job: Job) -> Step | None:
        name = named(job)
        if name not in job.request.containers or len(job.results) == self._max_steps:
            return None
        route = (*(result.container for result in job.results), str(name))
        return super().next_step(structs.replace(job, request=structs.replace(job.request, containers=route)))

    def outcome(self, job: Job) -> Outcome:
        if (name := named(job)) is None:
            return super().outcome(job)
        why = f"past {self._max_steps} steps" if name in job.request.containers else "not in the request"
        error = f"cannot go on to {name!r:.100}: {why}"
        return Outcome(JobStatus.FAILED, ContainerError(container=job.steps[-1].container, error=error, kind="status"))


def named(job: Job) -> object:
    if not job.results:
        return job.request.containers[0]
    try:
        return json.decode(last_output(job) or b"{}", type=Output).next  # after an error there is no output
    except ValidationError:  # JSON that is not an object
        return None


provider = Provider(RouteConfig, lambda config, file: RoutePipeline(config))
