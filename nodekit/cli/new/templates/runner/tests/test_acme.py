"""Tests of nodekit's promises for the runner `acme`. Add tests for features of your own."""

import pytest

from nodekit.testing import StreamingRunnerContract
from nodekit_acme import AcmeConfig, AcmeEntry, AcmeRunner

COMMANDS = {
    "echo": ("cat",),
    "fail": ("false",),
    "slow": ("sleep", "600"),
    "endless": ("yes",),
    "broken": ("sh", "-c", "echo half; exit 3"),
}


class TestAcmeRunner(StreamingRunnerContract):
    @pytest.fixture
    def runner(self) -> AcmeRunner:
        entries = tuple(AcmeEntry(id=id, command=command) for id, command in COMMANDS.items())
        return AcmeRunner(AcmeConfig(containers=entries))
