"""Sound components pass the suites of pipelines, guards, observers and other plugins, on every event loop."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from nodekit import Event, JobFinished, JobRequest, Node, Pipeline
from nodekit import Sequence as SequencePipeline
from nodekit.testing import GuardContract, ObserverContract, PipelineContract, PluginContract, make_request
from nodekit_guardian import Guardian
from nodekit_ratelimit import RateLimit


class TestSequence(PipelineContract):
    @pytest.fixture
    def pipeline(self) -> Pipeline:
        return SequencePipeline()

    def refused(self) -> Sequence[JobRequest]:
        return [JobRequest.of(data={}), make_request("nowhere")]


class TestGuardian(GuardContract):
    @pytest.fixture
    def guard(self) -> Guardian:
        return Guardian()

    def welcome(self) -> Sequence[JobRequest]:
        return [make_request("echo"), make_request("echo", "fail")]

    def unwelcome(self) -> Sequence[JobRequest]:
        return [make_request("echo", requires_proof=True)]


class TestRateLimit(GuardContract):
    """A guard by `nodekit_limit`."""

    @pytest.fixture
    def guard(self) -> RateLimit:
        return RateLimit(requests=1000)

    def welcome(self) -> Sequence[JobRequest]:
        return [make_request("echo")]


class Holder:
    """A plugin that is neither guard nor observer."""

    open = False

    @asynccontextmanager
    async def nodekit_lifespan(self) -> AsyncIterator[None]:
        self.open = True
        try:
            yield
        finally:
            self.open = False

    def nodekit_problems(self) -> Sequence[str]:
        return [] if self.open else ["it is closed"]


class TestHolder(PluginContract):
    @pytest.fixture
    def plugin(self) -> Holder:
        return Holder()


class Counter:
    def __init__(self) -> None:
        self.finished = 0

    def nodekit_observe(self, event: Event, node: Node) -> None:
        if isinstance(event, JobFinished):
            self.finished += 1


class TestCounter(ObserverContract):
    @pytest.fixture
    def observer(self) -> Counter:
        return Counter()
