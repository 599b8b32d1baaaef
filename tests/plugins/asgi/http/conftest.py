"""The HTTP API over real sockets. What it promises whatever the server is in `HttpTransportContract`."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from http_api import Api, serving

from nodekit import JobStore
from nodekit_memory import MemoryStore
from nodekit_sqlite import SqliteConfig, SqliteStore


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def server() -> str:
    """The default one. Where it makes a difference, tests are marked `both_servers`."""
    return "hypercorn"


@pytest.fixture
async def api(server: str) -> AsyncIterator[Api]:
    async with serving(server) as api:
        yield api


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> JobStore:
    return MemoryStore() if request.param == "memory" else SqliteStore(SqliteConfig(path=tmp_path / "jobs.db"))
