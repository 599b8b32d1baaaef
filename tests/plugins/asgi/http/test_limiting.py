"""Clients that send too many requests: 429 over real sockets, for any request."""

from typing import Any

import pytest
from components import Gate
from http_api import api_functions, serving

from nodekit import TooManyRequests
from nodekit_ratelimit import RateLimit

pytestmark = pytest.mark.anyio


def slow_limit(requests: int) -> RateLimit:
    return RateLimit(requests=requests, period_seconds=3600)


def limited(server: str, *plugins: object) -> Any:
    return serving(server, runners=[api_functions(Gate())], plugins=plugins)


async def test_a_client_that_asks_too_often_is_429_and_told_when_to_ask_again(server: str) -> None:
    async with limited(server, slow_limit(3)) as api:
        assert [(await api.get("/info")).status for _ in range(3)] == [200] * 3
        answer = await api.get("/info")
        assert (answer.status, answer.error) == (429, "too many requests: at most 3 in 3600 s")
        assert 1 <= int(answer.headers["Retry-After"]) <= 1200
        assert "X-Request-ID" in answer.headers


async def test_a_job_is_neither_kept_nor_is_its_body_read_where_its_client_is_refused(server: str) -> None:
    async with limited(server, slow_limit(1)) as api:
        await api.submit("echo")
        answer = await api.post("/api/jobs", {"containers": ["echo"], "data": {"text": "x" * 100_000}})
        assert answer.status == 429
        assert (await api.post("/api/jobs/batch", [{"containers": ["echo"], "data": {}}])).status == 429
        assert api.node
        assert len(await api.node.find()) == 1


async def test_what_is_no_route_counts_too(server: str) -> None:
    async with limited(server, slow_limit(2)) as api:
        statuses = [(await api.get(path)).status for path in ("/nothing", "/api/jobs?limit=x", "/healthy", "/info")]
        assert statuses == [404, 400, 429, 429]


async def test_probes_are_answered_always_and_do_not_count(server: str) -> None:
    async with limited(server, slow_limit(1)) as api:
        assert [(await api.get("/health")).status for _ in range(5)] == [200] * 5
        for path in ("/docs", "/docs/start.js", "/openapi.json"):
            assert [(await api.get(path)).status for _ in range(2)] == [200, 200], path
        assert [(await api.get("/info")).status for _ in range(2)] == [200, 429]
        assert (await api.get("/health")).status == 200


async def test_another_client_is_not_refused(server: str) -> None:
    async with limited(server, slow_limit(1)) as api, api.as_other_client() as other:
        assert [(await api.get("/info")).status for _ in range(2)] == [200, 429]
        assert (await other.get("/info")).status == 200


class Broken:
    def nodekit_limit(self, client: str) -> None:
        raise RuntimeError(f"who is {client}?")


class Strict:
    def nodekit_limit(self) -> None:
        raise TooManyRequests("not today", retry_after_seconds=86_400)


async def test_a_plugin_that_breaks_lets_nobody_through_and_is_logged(
    server: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with limited(server, Broken()) as api:
        answer = await api.get("/info")
        assert (answer.status, answer.error) == (500, "internal error")
        assert (await api.get("/health")).status == 200
    assert "Broken failed in nodekit_limit" in caplog.text
    assert "who is 127.0.0.1?" in caplog.text


async def test_the_first_plugin_that_objects_wins(server: str) -> None:
    async with limited(server, Strict(), Broken()) as api:
        answer = await api.get("/info")
        assert (answer.status, answer.error, answer.headers["Retry-After"]) == (429, "not today", "86400")
