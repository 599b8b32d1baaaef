"""What all tests share. The core is tested on asyncio and trio; modules about parts that stand on asyncio say so."""

import pytest


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend
