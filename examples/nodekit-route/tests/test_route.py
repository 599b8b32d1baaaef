"""Tests that the pipeline `route` keeps nodekit's promises of pipelines, and follows the outputs."""

from collections.abc import Sequence
from typing import Any

import pytest

from nodekit import ContainerError, Job, JobRequest, JobStatus, Location, Pipeline
from nodekit.testing import PipelineContract, make_job, make_request, with_output
from nodekit_route import RouteConfig, RoutePipeline


class TestRoutePipeline(PipelineContract):
    @pytest.fixture
    def pipeline(self) -> RoutePipeline:
        return RoutePipeline(RouteConfig(max_steps=4))

    def refused(self) -> Sequence[JobRequest]:
        stream = make_request("echo", destination=Location.STREAM)
        return [make_request("echo", "no-such-container"), make_request("echo", destination=Location.ONCHAIN), stream]

    def answer(self, container: str, data: Any) -> Any:
        """Outputs of the containers in the suite's jobs: each names another container, except `other`."""
        return {"next": {"echo": "reverse", "reverse": "other"}.get(container)}

    @pytest.mark.parametrize("name", ["answer", "ask"])
    def test_an_output_names_who_is_next_and_is_its_input(self, pipeline: Pipeline, name: str) -> None:
        job = with_output(make_job("ask", "skipped", "answer"), {"next": name}, due=name)
        step = pipeline.next_step(job)
        assert step is not None
        assert (step.container, bytes(step.input.data)) == (name, b'{"next":"%s"}' % name.encode())

    @pytest.mark.parametrize("output", [{"text": "done"}, {"next": None}, ["next"], 5])
    def test_an_output_that_names_none_is_the_result(self, pipeline: Pipeline, output: Any) -> None:
        job = with_output(make_job("ask", "answer"), output)
        assert pipeline.next_step(job) is None
        assert pipeline.outcome(job).status is JobStatus.SUCCESS

    @pytest.mark.parametrize("name", ["elsewhere", "", 5, True, ["answer"], "x" * 5000])
    def test_a_job_fails_that_is_sent_where_its_request_does_not_go(self, pipeline: Pipeline, name: Any) -> None:
        message = failure(pipeline, with_output(make_job("ask", "answer"), {"next": name}))
        assert repr(name)[:50] in message
        assert message.endswith("not in the request")

    def test_a_job_that_goes_round_and_round_fails(self, pipeline: Pipeline) -> None:
        job = make_job("ask")
        for _ in range(4):
            assert pipeline.next_step(job) is not None
            job = with_output(job, {"next": "ask"})
        assert "past 4 steps" in failure(pipeline, job)


def failure(pipeline: Pipeline, job: Job) -> str:
    assert pipeline.next_step(job) is None
    outcome = pipeline.outcome(job)
    assert outcome.status is JobStatus.FAILED
    assert isinstance(outcome.result, ContainerError)
    assert len(outcome.result.error) < 200
    return outcome.result.error
