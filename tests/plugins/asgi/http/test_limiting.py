"""Clients that send too many requests: 429 over real sockets, for any request."""

import pytest
from http_api import serving

from nodekit import Identity
from nodekit_ratelimit import RateLimit

pytestmark = pytest.mark.anyio


async def test_probes_are_answered_always_and_do_not_count(server: str) -> None:
    async with serving(server, plugins=[RateLimit(requests=1, period_seconds=3600)]) as api:
        for path in ("/health", "/health/live", "/docs", "/docs/start.js", "/openapi.json"):
            assert [(await api.get(path)).status for _ in range(2)] == [200, 200], path
        assert (await api.get("/info")).status == 200
        refused = await api.get("/info")
        assert (refused.status, refused.error) == (429, "too many requests: at most 1 in 3600 s")
        assert "X-Request-ID" in refused.headers
        assert (await api.get("/health")).status == 200


async def test_a_plugin_that_breaks_lets_nobody_through_but_probes(server: str) -> None:
    class Broken:
        def nodekit_limit(self, identity: Identity) -> None:
            raise RuntimeError(f"who is {identity.client}?")

    async with serving(server, plugins=[Broken()]) as api:
        answer = await api.get("/info")
        assert (answer.status, answer.error) == (500, "internal error")
        assert (await api.get("/health")).status == 200
