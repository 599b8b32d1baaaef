"""Fixtures of the tests of `nodekit job`."""

from collections.abc import AsyncIterator

import pytest
from http_api import Api, serving


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving("hypercorn") as api:
        yield api
