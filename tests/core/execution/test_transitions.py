"""Transitions of a job: pure decisions from its pipeline and the node's limits."""

import math
from typing import Any

import pytest
from msgspec.structs import replace

from nodekit import Container, ContainerError, Job, JobStatus, Outcome, Refusal, Sequence, Step
from nodekit.execution.transitions import Progress, job_timeout_text
from nodekit.model.clock import NodeClock
from nodekit.model.limits import NodeLimits
from nodekit.testing import make_job, make_request, make_step, with_output

CONTAINERS = {id: Container(id=id) for id in ("echo", "reverse")}


class Says(Sequence):
    """A pipeline that returns or raises what the test gives it."""

    def __init__(self, answer: Step | Exception | None) -> None:
        self.answer = answer

    def next_step(self, job: Job) -> Step | None:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def progress(
    pipeline: Any = None, containers: dict[str, Container] = CONTAINERS, alone: bool = True, **limits: Any
) -> Progress:
    pipelines = {"sequence": pipeline or Sequence()}
    return Progress(pipelines, lambda _: containers, NodeLimits(**limits), NodeClock(), alone=alone)


def end(job: Job) -> tuple[str, str, str]:
    assert job.status is JobStatus.FAILED
    assert isinstance(job.result, ContainerError)
    return job.result.container, job.result.kind, job.result.error


# -- admission ------------------------------------------------------------------------------------


def test_a_request_for_a_pipeline_that_is_not_there_is_refused_by_its_name() -> None:
    with pytest.raises(Refusal, match="Pipeline not supported") as raised:
        progress().check(make_request(pipeline="dag"))
    assert raised.value.params == {"pipeline": "dag"}


def test_a_request_may_name_as_many_containers_as_a_job_may_have_steps() -> None:
    progress(max_steps=2).check(make_request("echo", "echo"))
    with pytest.raises(Refusal, match="Too many containers") as raised:
        progress(max_steps=2).check(make_request("echo", "echo", "echo"))
    assert raised.value.params == {"max_steps": 2}


def test_a_check_that_answers_anything_lets_nobody_in() -> None:
    class Answers(Sequence):
        def check(self, *_: Any) -> Any:
            return False

    with pytest.raises(TypeError, match="check returned False; return None to let the request in"):
        progress(Answers()).check(make_request())


# -- what is due ----------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [None, ValueError("broken"), make_step("reverse")], ids=["no", "error", "elsewhere"])
def test_no_step_is_due_where_a_pipeline_has_none_or_breaks_or_goes_elsewhere(answer: Any) -> None:
    assert progress(Says(answer)).next_step(make_job("echo")) is None


def test_no_step_is_due_where_the_pipeline_is_not_there() -> None:
    assert progress().next_step(make_job(pipeline="dag")) is None


def test_the_step_that_is_due_is_the_pipelines() -> None:
    assert progress(Says(step := make_step("echo"))).next_step(make_job("echo")) is step


def test_a_job_goes_on_in_the_container_that_is_due_and_waits_there_as_long_as_it_may() -> None:
    job = make_job("echo", "reverse")
    for own, of_the_node, seconds in ((None, 9, 9), (5, 9, 5), (math.inf, 9, None), (None, math.inf, None)):
        containers = {**CONTAINERS, "reverse": Container(id="reverse", queue_timeout_seconds=own)}
        on = progress(containers=containers, queue_timeout_seconds=of_the_node).advance(with_output(job))
        assert (on.due, on.queue_timeout_seconds, on.status) == ("reverse", seconds, JobStatus.RUNNING)


def test_a_job_of_which_nothing_is_due_has_the_end_that_its_pipeline_says() -> None:
    class Ends(Says):
        def outcome(self, job: Job) -> Outcome:
            return Outcome(JobStatus.SUCCESS)

    ended = progress(Ends(None)).advance(make_job())
    assert (ended.status, ended.due) == (JobStatus.SUCCESS, None)
    assert ended.finished_at is not None


def test_a_job_that_cannot_go_on_fails_where_it_was_to_go_and_says_why() -> None:
    job = make_job("echo")
    for some, end_of in (
        (progress(Says(ValueError("broken"))), ("echo", "internal error of the pipeline")),
        (progress(containers={}), ("echo", "this node has no such container")),
        (progress(Says(make_step("reverse"))), ("reverse", "its pipeline chose 'reverse', which the request")),
        (
            Progress({}, lambda _: CONTAINERS, NodeLimits(), NodeClock()),
            ("echo", "this node has no pipeline 'sequence'"),
        ),
    ):
        container, kind, text = end(some.advance(job))
        assert (container, kind) == (end_of[0], "internal")
        assert text.startswith(end_of[1])


def test_beside_others_a_step_in_a_container_that_is_not_there_waits_for_it_as_long_as_the_node_says() -> None:
    due = progress(containers={}, alone=False, queue_timeout_seconds=60).advance(make_job("echo"))
    assert (due.status, due.due, due.queue_timeout_seconds) == (JobStatus.ACCEPTED, "echo", 60)


def test_a_job_may_have_as_many_steps_as_the_node_says() -> None:
    job, endless = make_job("echo"), progress(Says(make_step("echo")), max_steps=2)
    assert endless.advance(once := with_output(job)).status is JobStatus.RUNNING
    assert "did not end within 2 steps" in end(endless.advance(with_output(once)))[-1]


# -- how it ends ----------------------------------------------------------------------------------


def test_a_job_that_waited_too_long_says_which_of_its_limits_was_over() -> None:
    job = replace(make_job("echo"), timeout_seconds=60.0, queue_timeout_seconds=20.0)
    late, queued = "the job was not finished within 60 s", "waited in the queue for more than 20 s"
    assert end(progress().expired(job, 59.9)) == ("echo", "queue_timeout", queued)
    assert end(progress().expired(job, 60.0)) == end(progress().expired(job, 60.1)) == ("echo", "job_timeout", late)
    assert job_timeout_text(job) == late
    assert end(progress().expired(replace(job, timeout_seconds=None), 99.0)) == ("echo", "queue_timeout", queued)


def test_a_job_of_which_nothing_is_due_fails_in_no_container() -> None:
    assert end(progress().failed(replace(make_job(), due=None), "no")) == ("", "internal", "no")
