"""The plugin keeps what every observer promises."""

import pytest

from nodekit.testing import ObserverContract
from nodekit_metrics import Metrics


class TestMetrics(ObserverContract):
    backends = ("asyncio", "trio")

    @pytest.fixture
    def observer(self) -> Metrics:
        return Metrics()
