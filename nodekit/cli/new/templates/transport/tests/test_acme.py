"""Tests of nodekit's HTTP API on the transport `acme`. Add tests for features of your own."""

import pytest

from nodekit.testing import HttpTransportContract
from nodekit_acme import AcmeConfig, AcmeTransport


class TestAcmeTransport(HttpTransportContract):
    @pytest.fixture
    def transport(self) -> AcmeTransport:
        return AcmeTransport(AcmeConfig(port=0))
