"""The store `sqlite` keeps the promises of tables and durable stores."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from chance import SEED, each_run

from nodekit.testing import DurableJobStoreContract, JobTableContract
from nodekit_sqlite import SqliteStore, SqliteTable


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


class TestSqliteTable(JobTableContract):
    @pytest.fixture
    async def table(self, tmp_path: Path) -> AsyncIterator[SqliteTable]:
        async with SqliteTable(tmp_path / "jobs.sqlite", synchronous="NORMAL") as table:
            yield table


class TestSqliteStore(DurableJobStoreContract):
    kill_seed = SEED
    kills = each_run(5, 50)

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[], SqliteStore]:
        return lambda: SqliteStore(tmp_path / "jobs.sqlite", synchronous="NORMAL")
