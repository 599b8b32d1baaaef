"""Observers that break a promise each. `tests/kit/test_caught.py` runs the suite on them."""

import time
from collections.abc import Sequence
from typing import Any

import pytest

from nodekit import Event, JobFinished, RequestRefused
from nodekit.testing import ObserverContract


class Sound:
    finished = 0

    def nodekit_observe(self, event: Event) -> None:
        if isinstance(event, JobFinished):
            self.finished += 1

    def nodekit_problems(self) -> Sequence[str]:
        return []


class Raises(Sound):
    """Assumes that every finished job has a result."""

    def nodekit_observe(self, event: Event) -> None:
        if isinstance(event, JobFinished):
            assert event.job.result.output  # type: ignore[union-attr]


class ChokesOnNewEvents(Sound):
    def nodekit_observe(self, event: Event) -> None:
        assert event.client if isinstance(event, RequestRefused) else event.job.id


class Blocks(Sound):
    """Blocks for as long as a write to a slow disk takes."""

    def nodekit_observe(self, event: Event) -> None:
        time.sleep(0.001)


class KeepsEvents(Sound):
    def __init__(self) -> None:
        self.events: list[Event] = []

    def nodekit_observe(self, event: Event) -> None:
        self.events.append(event)


class ChangesJobs(Sound):
    """Is no observer: it changes jobs."""

    def nodekit_observe(self, event: Event, node: Any) -> None:
        node._cluster._own = {}


class CanBeMadeOnce(Sound):
    made = False

    def __init__(self) -> None:
        if type(self).made:
            raise ValueError("there is a counter of jobs already")
        type(self).made = True


class MumblesItsProblems(Sound):
    def nodekit_problems(self) -> str:  # type: ignore[override]
        return "it is broken"


class Suite(ObserverContract):
    subject: type[Sound]

    @pytest.fixture
    def observer(self) -> Sound:
        return self.subject()


HURRIED = {"timeout_seconds": 5.0}
