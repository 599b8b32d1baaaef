"""`TransportContract` is for transports of any kind: one that speaks JSON in lines passes it, on both event loops."""

import pytest
from lines_suite import LinesSuite
from lines_transport import LinesTransport


class TestLinesTransport(LinesSuite):
    backends = ("asyncio", "trio")

    @pytest.fixture
    def transport(self) -> LinesTransport:
        return LinesTransport()
