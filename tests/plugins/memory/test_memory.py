"""The store `memory` keeps the promises of tables and stores."""

from collections.abc import AsyncIterator

import pytest

from nodekit.testing import JobStoreContract, JobTableContract
from nodekit_memory import MemoryStore, MemoryTable


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


class TestMemoryTable(JobTableContract):
    @pytest.fixture
    async def table(self) -> AsyncIterator[MemoryTable]:
        async with MemoryTable() as table:
            yield table


class TestMemoryStore(JobStoreContract):
    @pytest.fixture
    async def store(self) -> AsyncIterator[MemoryStore]:
        async with MemoryStore() as store:
            yield store
