"""The pipeline `sequence`: containers in the requested order, each fed by the one before; the first error ends it."""

import pytest
from msgspec.structs import replace

from nodekit import (
    Container,
    ContainerError,
    ContainerOutput,
    JobStatus,
    Location,
    Outcome,
    Refusal,
    Sequence,
    encode_payload,
)
from nodekit.testing import make_attempt, make_job, make_request

CONTAINERS = {id: Container(id=id) for id in ("echo", "reverse")}
sequence = Sequence()


def test_a_request_for_offered_containers_is_accepted() -> None:
    sequence.check(make_request("echo", "reverse", "echo"), CONTAINERS)


def test_a_request_without_containers_is_refused() -> None:
    with pytest.raises(Refusal) as raised:
        sequence.check(replace(make_request(), containers=()), CONTAINERS)
    assert raised.value.reason == "No containers specified"
    assert raised.value.params == {}


@pytest.mark.parametrize("containers", [("other",), ("echo", "other", "third"), ("Echo",)])
def test_a_request_for_an_unknown_container_is_refused_by_its_name(containers: tuple[str, ...]) -> None:
    with pytest.raises(Refusal) as raised:
        sequence.check(make_request(*containers), CONTAINERS)
    assert raised.value.reason == "Container not supported"
    assert raised.value.params == {"container": next(c for c in containers if c not in CONTAINERS)}


def test_the_first_step_gets_the_data_and_the_last_one_knows_where_it_goes() -> None:
    job = make_job(
        "echo", "reverse", data={"a": 1}, origin=Location.ONCHAIN, destination=Location.ONCHAIN, requires_proof=True
    )
    first = sequence.next_step(job)
    assert first is not None
    assert (first.job_id, first.index, first.attempt, first.container) == (job.id, 0, 1, "echo")
    assert (first.input.source, first.input.destination) == (Location.ONCHAIN, Location.OFFCHAIN)
    assert (bytes(first.input.data), first.input.requires_proof) == (b'{"a":1}', True)

    output = ContainerOutput(container="echo", output=encode_payload([1, 2]))
    second = sequence.next_step(job.with_result(output, make_attempt()))
    assert second is not None
    assert (second.index, second.attempt, second.container) == (1, 1, "reverse")
    assert (second.input.source, second.input.destination) == (Location.OFFCHAIN, Location.ONCHAIN)
    assert (bytes(second.input.data), second.input.requires_proof) == (b"[1,2]", True)


def test_a_single_step_has_both_the_origin_and_the_destination() -> None:
    step = sequence.next_step(make_job("echo", origin=Location.ONCHAIN, destination=Location.STREAM))
    assert step is not None
    assert (step.input.source, step.input.destination) == (Location.ONCHAIN, Location.STREAM)


def test_a_failed_attempt_leaves_the_step_due_with_the_same_key() -> None:
    job = make_job("echo")
    first = sequence.next_step(job)
    again = sequence.next_step(job.with_failure("echo", make_attempt(kind="connection", failure="refused")))
    assert first is not None
    assert again is not None
    assert again.attempt == 2
    assert again.input == first.input
    assert again.idempotency_key == first.idempotency_key == f"{job.id}:0"


def test_after_the_last_output_the_job_has_succeeded() -> None:
    output = ContainerOutput(container="echo", output=encode_payload(None))
    job = make_job("echo").with_result(output, make_attempt())
    assert sequence.next_step(job) is None
    assert sequence.outcome(job) == Outcome(JobStatus.SUCCESS)


def test_the_first_error_ends_the_job() -> None:
    error = ContainerError(container="echo", error="no", kind="timeout")
    job = make_job("echo", "reverse").with_result(error, make_attempt())
    assert sequence.next_step(job) is None
    assert sequence.outcome(job) == Outcome(JobStatus.FAILED)


def test_the_same_job_gives_the_same_answer_again() -> None:
    job = make_job("echo", "reverse")
    assert sequence.next_step(job) == sequence.next_step(job)
