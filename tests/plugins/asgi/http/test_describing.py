"""`GET /resources`: the resources that containers describe."""

import asyncio

import pytest
from aiohttp import web
from http_api import Api, serving

from nodekit.node import resources as _describe
from nodekit_remote import RemoteContainer, RemoteRunner

pytestmark = pytest.mark.anyio


async def test_containers_that_say_nothing_are_left_out(api: Api) -> None:
    answer = await api.get("/resources")
    assert (answer.status, answer.json) == (200, {})


async def test_each_running_container_is_asked_at_once_and_answers_for_itself(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_describe, "DESCRIBE_SECONDS", 2.0)
    asked: list[str] = []
    both = asyncio.Barrier(2)

    async def says(request: web.Request) -> web.StreamResponse:
        asked.append(request.query_string)
        name = request.match_info["name"]
        if name == "late" and request.query:
            await asyncio.Event().wait()
        if name in "ab":
            await both.wait()  # each answers only while the other is being asked, too
        status = 404 if name == "silent" else 200
        return web.Response(text="<html>" if name == "broken" else f'{{"is": "{name}","n":1.50}}', status=status)

    app = web.Application()
    app.router.add_get("/{name}/service-resources", says)
    started = web.AppRunner(app, handler_cancellation=True)
    await started.setup()
    site = web.TCPSite(started, "127.0.0.1", 0)
    await site.start()
    try:
        port = started.addresses[0][1]
        names = ("a", "late", "silent", "broken", "b")
        urls = [RemoteContainer(id=name, url=f"http://127.0.0.1:{port}/{name}") for name in names]
        gone = RemoteContainer(id="gone", url="http://127.0.0.1:1")
        runner = RemoteRunner(*urls, gone)
        async with serving(server, runners=[runner]) as api:
            answer = await api.get("/resources?model_id=org%2Fmodel%26x")
            assert answer.status == 200
            assert answer.body == b'{"a":{"is": "a","n":1.50},"b":{"is": "b","n":1.50}}'
            assert set(asked) == {"model_id=org/model%26x"}
            asked.clear()
            assert set((await api.get("/resources")).json) == {"a", "late", "b"}
            assert set(asked) == {""}
    finally:
        await started.cleanup()
