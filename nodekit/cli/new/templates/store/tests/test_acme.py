"""Tests of nodekit's promises for the store `acme`. Add tests for features of your own."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from nodekit.testing import DurableJobStoreContract, JobTableContract
from nodekit_acme import AcmeConfig, AcmeStore, AcmeTable


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


class TestAcmeTable(JobTableContract):
    @pytest.fixture
    async def table(self, path: Path) -> AsyncIterator[AcmeTable]:
        async with AcmeTable(path, synchronous=False) as table:
            yield table


class TestAcmeStore(DurableJobStoreContract):
    @pytest.fixture
    def open_store(self, path: Path) -> Callable[[], AcmeStore]:
        return lambda: AcmeStore(AcmeConfig(path=path))
