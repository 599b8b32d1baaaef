"""The state of a job as a row: it gives the job back, with the other rows or without."""

import msgspec
import pytest
from msgspec.structs import replace

from nodekit import ContainerError, JobState, JobStatus, Location, Outcome, StepRecord
from nodekit.testing import make_job, succeeded, with_output


def test_a_row_and_the_rows_that_never_change_give_the_whole_job() -> None:
    job = make_job("echo", "reverse", client="me", priority=1)
    for one in (job, with_output(job), replace(succeeded(job), finish_number=7)):
        row = JobState.encoded(one)
        state = JobState.decoded(row)
        steps = one.steps[: one.ended_steps]
        assert state.job(one.id, "me", request=one.request, steps=steps, finish_number=one.finish_number) == one


def test_a_step_that_has_not_ended_is_in_the_row_and_may_be_left_out() -> None:
    job = replace(make_job(), steps=(StepRecord(container="echo"),), status=JobStatus.RUNNING)
    state = JobState.decoded(JobState.encoded(job))
    assert state.job(job.id, job.client, request=job.request) == job
    assert state.job(job.id, job.client, request=job.request, open_step=False).steps == ()


def test_without_the_request_the_job_has_the_facts_that_a_queue_needs() -> None:
    job = make_job(client="me", group="us", priority=1, pipeline="own", origin=Location.ONCHAIN)
    read = JobState.decoded(JobState.encoded(job)).job(job.id, "me")
    facts = ("client", "group", "priority", "pipeline", "origin", "destination")
    assert [getattr(read.request, name) for name in facts] == [getattr(job.request, name) for name in facts]
    assert read.request.containers == ()
    assert (read.status, read.due, read.accepted_at) == (job.status, job.due, job.accepted_at)


def test_the_form_of_a_row_is_that_of_other_releases() -> None:
    job = replace(make_job(), accepted_at=5.0).finished(
        Outcome(JobStatus.CANCELLED, ContainerError(container="echo", error="stop")), 6.0
    )
    row = {
        "accepted_at": 5.0,
        "status": "cancelled",
        "outcome": {"status": "cancelled", "result": {"type": "error", "container": "echo", "error": "stop"}},
        "finished_at": 6.0,
    }
    assert msgspec.json.decode(JobState.encoded(job)) == row
    later = b'{"accepted_at":5.0,"status":"accepted","a_field_of_the_next_release":[1]}'
    assert JobState.decoded(later).status is JobStatus.ACCEPTED
    with pytest.raises(msgspec.DecodeError):
        JobState.decoded(b'{"accepted_at":5.0}')
