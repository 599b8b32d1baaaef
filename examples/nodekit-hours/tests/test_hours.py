"""Tests that the guard `hours` keeps nodekit's promises of guards, and refuses jobs for closed containers."""

from collections.abc import Sequence

import pytest

from nodekit import Container, JobRequest
from nodekit.testing import GuardContract, make_request
from nodekit_hours import HoursGuard


class TestHoursGuard(GuardContract):
    @pytest.fixture
    def guard(self, monkeypatch: pytest.MonkeyPatch) -> HoursGuard:
        monkeypatch.setattr("nodekit_hours.time", lambda: 22.5 * 3600)
        return HoursGuard()

    def containers(self) -> Sequence[Container]:
        hours = {"shop": (9, 17), "bar": (18, 2.5), "late": (22.5, 24), "early": (5, 22.5), "kiosk": (8, 8)}
        rules = {id: {"opens": opens, "closes": closes} for id, (opens, closes) in hours.items()}
        return [*super().containers(), *(Container(id=id, rules=rules[id]) for id in rules)]

    def welcome(self) -> Sequence[JobRequest]:
        return [make_request("echo"), make_request("bar", "late", "kiosk")]

    def unwelcome(self) -> Sequence[JobRequest]:
        return [make_request("shop"), make_request("early"), make_request("echo", "bar", "shop")]
