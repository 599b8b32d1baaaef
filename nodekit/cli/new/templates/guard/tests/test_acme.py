"""Tests of nodekit's promises for the guard `acme`, which refuses data that is too large."""

from collections.abc import Sequence

import pytest

from nodekit import Container, JobRequest
from nodekit.testing import GuardContract, make_request
from nodekit_acme import AcmeConfig, AcmeGuard


class TestAcmeGuard(GuardContract):
    @pytest.fixture
    def guard(self) -> AcmeGuard:
        return AcmeGuard(AcmeConfig(max_data_bytes=1000))

    def containers(self) -> Sequence[Container]:
        return [*super().containers(), Container(id="small", rules={"max_data_bytes": 100})]

    def welcome(self) -> Sequence[JobRequest]:
        return [make_request("echo", data={"text": "x" * 900}), make_request("small", data={"text": "x" * 80})]

    def unwelcome(self) -> Sequence[JobRequest]:
        large, middling = {"text": "x" * 1000}, {"text": "x" * 200}
        return [make_request("echo", data=large), make_request("echo", "small", data=middling)]
