"""Tests of nodekit's promises for the pipeline `acme`, which stops early."""

from collections.abc import Sequence
from typing import Any

import pytest

from nodekit import JobRequest, JobStatus, Location, Outcome, Pipeline
from nodekit.testing import PipelineContract, make_job, make_request, with_output
from nodekit_acme import AcmeConfig, AcmePipeline


class TestAcmePipeline(PipelineContract):
    @pytest.fixture
    def pipeline(self) -> AcmePipeline:
        return AcmePipeline(AcmeConfig())

    def refused(self) -> Sequence[JobRequest]:
        return [make_request("no-such-container"), make_request("echo", destination=Location.STREAM)]

    def answer(self, container: str, data: Any) -> Any:
        """Return a container's output in the suite's jobs. Here, the second container says that the job is done."""
        return {**data, "done": container == self.containers[1]}

    def test_a_container_can_end_the_job(self, pipeline: Pipeline) -> None:
        job = with_output(make_job("ask", "answer"), {"done": False}, due="answer")
        step = pipeline.next_step(job)
        assert step is not None
        assert step.container == "answer"
        done = with_output(make_job("ask", "answer"), {"done": True})
        assert pipeline.next_step(done) is None
        assert pipeline.outcome(done) == Outcome(JobStatus.SUCCESS)
