"""The HTTP API over real sockets, on both servers."""

from collections.abc import AsyncIterator

import pytest
from http_api import Api, serving


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["hypercorn", "uvicorn"])
def server(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def api(server: str) -> AsyncIterator[Api]:
    async with serving(server) as api:
        yield api
