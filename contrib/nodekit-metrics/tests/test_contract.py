"""Tests that the plugin keeps the promises of every observer."""

import pytest

from nodekit.testing import ObserverContract
from nodekit_metrics import Metrics


class TestMetrics(ObserverContract):
    backends = ("asyncio", "trio")

    @pytest.fixture
    def observer(self) -> Metrics:
        return Metrics()
