"""The transport `asgi` keeps the promises of transports, on both servers."""

import pytest

from nodekit.testing import HttpTransportContract
from nodekit_asgi import AsgiConfig, AsgiTransport


@pytest.fixture(params=["hypercorn", "uvicorn"])
def server(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


class TestAsgiTransport(HttpTransportContract):
    backends = ("asyncio",)

    @pytest.fixture
    def transport(self, server: str) -> AsgiTransport:
        return AsgiTransport(config=AsgiConfig(bind="127.0.0.1:0", server=server))  # type: ignore[arg-type]
