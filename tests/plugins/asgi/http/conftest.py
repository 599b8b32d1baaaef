"""Fixtures of the HTTP API over real sockets. `HttpTransportContract` has the promises that hold on any server."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from http_api import Api, serving

from nodekit import JobStore
from nodekit_memory import MemoryStore
from nodekit_sqlite import SqliteStore


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def server() -> str:
    """Name the default server. Tests are marked `both_servers` if it makes a difference."""
    return "hypercorn"


@pytest.fixture
async def api(server: str) -> AsyncIterator[Api]:
    async with serving(server) as api:
        yield api


@pytest.fixture
async def api2() -> AsyncIterator[Api]:
    """Serve HTTP/2, too; only hypercorn can."""
    async with serving("hypercorn", http2=True) as api:
        yield api


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> JobStore:
    return MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "jobs.db")
