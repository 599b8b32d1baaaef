"""A job is a snapshot, and its transitions are pure."""

import msgspec
import pytest
from msgspec.structs import replace

from nodekit import (
    FINISHED,
    UNFINISHED,
    ContainerError,
    ContainerOutput,
    InvalidPayload,
    Job,
    JobRequest,
    JobStatus,
    Outcome,
    encode_payload,
    last_output,
)
from nodekit.testing import make_attempt, make_job

OUTPUT = ContainerOutput(container="echo", output=encode_payload({"a": 1}))
ERROR = ContainerError(container="reverse", error="HTTP status 500", kind="status", status=500)


def test_statuses_are_either_finished_or_not() -> None:
    assert {status for status in JobStatus if status.finished} == FINISHED
    assert set(JobStatus) == FINISHED | UNFINISHED
    assert not FINISHED & UNFINISHED
    assert {"accepted", "running"} == UNFINISHED


def test_a_request_is_made_from_plain_values() -> None:
    request = JobRequest.of("echo", "reverse", data={"text": "é"}, client="alice")
    assert (request.containers, bytes(request.data), request.client) == (
        ("echo", "reverse"),
        '{"text":"é"}'.encode(),
        "alice",
    )
    with pytest.raises(InvalidPayload):
        JobRequest.of("echo", data={"odd": object()})


def test_a_result_makes_the_job_run_and_leaves_the_old_snapshot_alone() -> None:
    job = replace(make_job("echo", "reverse"), not_before=5.0)
    newer = job.with_result(OUTPUT, attempt := make_attempt())
    assert (job.status, job.steps, job.not_before) == (JobStatus.ACCEPTED, (), 5.0)
    assert (newer.status, newer.not_before) == (JobStatus.RUNNING, None)
    assert [(step.container, step.attempts, step.result) for step in newer.steps] == [("echo", (attempt,), OUTPUT)]
    assert newer.id == job.id
    assert newer.request is job.request


def test_failed_attempts_gather_in_the_open_step_until_its_result() -> None:
    job, tries = make_job("echo", "reverse"), [make_attempt(kind="connection", failure=str(n)) for n in range(2)]
    assert job.attempt == 1
    for number, attempt in enumerate(tries, 2):
        job = job.with_failure("echo", attempt)
        assert (job.attempt, len(job.steps), job.results) == (number, 1, [])
    job = job.with_result(OUTPUT, last := make_attempt())
    assert job.steps[0].attempts == (*tries, last)
    assert (job.attempt, job.results) == (1, [OUTPUT])
    for number in (1, 2):
        job = job.with_failure("reverse", tries[0])
        assert [len(step.attempts) for step in job.steps] == [3, number]
        assert job.attempt == number + 1
    job = job.with_result(replace(OUTPUT, container="reverse"), last)
    assert [(step.container, len(step.attempts)) for step in job.steps] == [("echo", 3), ("reverse", 3)]


def test_the_next_step_gets_the_last_output_or_the_data() -> None:
    job = make_job("echo", "reverse", data={"first": 1})
    assert last_output(job) == msgspec.Raw(b'{"first":1}')
    job = job.with_result(OUTPUT, make_attempt())
    assert last_output(job) == msgspec.Raw(b'{"a":1}')
    job = job.with_failure("reverse", make_attempt(kind="timeout", failure="no reply"))
    assert last_output(job) == msgspec.Raw(b'{"a":1}')
    assert last_output(job.with_result(ERROR, make_attempt())) is None


def test_a_finished_job_has_an_end_and_nothing_due() -> None:
    job = replace(make_job(), not_before=3.0).finished(Outcome(JobStatus.SUCCESS), 12.5)
    assert (job.status, job.finished_at, job.due, job.not_before) == (JobStatus.SUCCESS, 12.5, None, None)


@pytest.mark.parametrize("status", sorted(FINISHED))
def test_the_first_end_is_the_only_one(status: JobStatus) -> None:
    job = make_job().finished(Outcome(status), 1.0)
    assert job.finished(Outcome(JobStatus.FAILED, ERROR), 2.0) is job


def test_the_result_is_that_of_the_last_step_unless_the_outcome_says_otherwise() -> None:
    job = make_job("echo", "reverse").with_result(OUTPUT, make_attempt()).with_result(ERROR, make_attempt())
    assert job.result is None
    assert job.intermediate_results == [OUTPUT, ERROR]
    longer = make_job().with_result(OUTPUT, make_attempt()).with_result(OUTPUT, make_attempt())
    longer = longer.with_result(ERROR, make_attempt()).finished(Outcome(JobStatus.FAILED), 1.0)
    assert (longer.intermediate_results, longer.result) == ([OUTPUT, OUTPUT], ERROR)
    failed = job.finished(Outcome(JobStatus.FAILED), 1.0)
    assert failed.result == ERROR
    assert failed.intermediate_results == [OUTPUT]
    settled = job.finished(Outcome(JobStatus.SUCCESS, OUTPUT), 1.0)
    assert settled.result == OUTPUT
    assert settled.intermediate_results == [OUTPUT, ERROR]


def test_a_job_that_ends_before_any_step_may_have_no_result() -> None:
    assert make_job().finished(Outcome(JobStatus.SUCCESS), 1.0).result is None


def test_a_cancelled_job_says_so_in_its_result() -> None:
    job = make_job("echo", "reverse").with_result(OUTPUT, make_attempt())
    cancelled = replace(job, due="reverse").finished(Outcome(JobStatus.CANCELLED), 1.0)
    assert cancelled.result == ContainerError(container="reverse", error="cancelled", kind="cancelled")
    assert cancelled.intermediate_results == [OUTPUT]
    given = job.finished(Outcome(JobStatus.CANCELLED, ERROR), 1.0)
    assert given.result == ERROR


def test_a_job_survives_encoding_with_its_payloads_as_they_were() -> None:
    raw = msgspec.Raw(b'{"n": 1.0, "n":2 }')
    job = make_job("echo", data=raw).with_result(ContainerOutput(container="echo", output=raw), make_attempt())
    job = job.with_failure("echo", make_attempt(kind="timeout", failure="no reply"))
    job = job.finished(Outcome(JobStatus.FAILED, ERROR), 3.25)
    assert msgspec.json.decode(msgspec.json.encode(job), type=Job) == job
