"""The pipeline `acme`: runs the containers of a request in order, until one says that the job is done.

A container says so by the key `done` of its output, such as `{"done": true, …}`. That output is the job's result.

Where to go on: `next_step` may name any container of the request and give it any input. So a pipeline can choose by
earlier outputs, repeat a step, or skip one. `check` refuses requests that the pipeline cannot run. A job fails if the
pipeline names a container that the request does not name, because guards have only seen those of the request.
`outcome` may turn an expected error into a success.
"""

from collections.abc import Mapping

import msgspec

from nodekit import (
    Container,
    ContainerId,
    Job,
    JobRequest,
    Location,
    Outcome,
    Provider,
    Refusal,
    Sequence,
    Step,
    last_output,
)

__all__ = ["AcmeConfig", "AcmePipeline", "provider"]


class AcmeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table of the pipeline in a node file.

    - `key`: The key of an output that ends the job if its value is true.
    """

    key: str = "done"


class AcmePipeline:
    """A pipeline that stops early. It is pure: after a crash, or on another node, it must give the same answers."""

    def __init__(self, config: AcmeConfig) -> None:
        self._key = config.key
        self._decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])  # values stay raw: an output may be large, or odd
        self._sequence = Sequence()  # nodekit's own rule: one after another; the first error ends the job

    def check(self, request: JobRequest, containers: Mapping[ContainerId, Container]) -> None:
        self._sequence.check(request, containers)
        if request.destination is Location.STREAM:  # only the last step may stream, and any could be the last
            raise Refusal("Pipeline does not stream", pipeline=request.pipeline)

    def next_step(self, job: Job) -> Step | None:
        return None if self._is_done(job) else self._sequence.next_step(job)

    def outcome(self, job: Job) -> Outcome:
        return self._sequence.outcome(job)

    def _is_done(self, job: Job) -> bool:
        output = last_output(job) if job.results else None  # without results, `last_output` is the request's data
        if output is None:
            return False
        try:
            values = self._decoder.decode(output)
        except msgspec.ValidationError:  # JSON that is not an object
            return False
        value = values.get(self._key)
        return value is not None and bytes(value) == b"true"


provider = Provider(AcmeConfig, lambda config, file: AcmePipeline(config))
