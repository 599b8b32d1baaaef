"""The transport `acme` speaks nodekit's HTTP API. Add tests of what is yours alone."""

import pytest

from nodekit.testing import HttpTransportContract
from nodekit_acme import AcmeConfig, AcmeTransport


class TestAcmeTransport(HttpTransportContract):
    @pytest.fixture
    def transport(self) -> AcmeTransport:
        return AcmeTransport(AcmeConfig(port=0))
