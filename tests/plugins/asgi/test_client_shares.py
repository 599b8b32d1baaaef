"""One address that asks for everything, and another one that still gets its jobs done, on both servers."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import anyio
import pytest
from components import functions, until
from http_api import Api, both_servers, serving

pytestmark = pytest.mark.anyio

GREEDY = "127.0.0.2"
WAITING = {"Prefer": "wait=30"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def hold(data: Any) -> Any:
    await anyio.sleep_forever()


class Streams:
    """A container whose streams never end."""

    def __init__(self) -> None:
        self.running = 0

    async def stream(self, data: Any) -> AsyncGenerator[str, None]:
        self.running += 1
        try:
            yield "x"
            await anyio.sleep_forever()
        finally:
            self.running -= 1


async def greedy_client(api: Api, stack: AsyncExitStack) -> Api:
    connector = aiohttp.TCPConnector(local_addr=(GREEDY, 0), limit=0)
    return Api(api.url, await stack.enter_async_context(aiohttp.ClientSession(connector=connector)))


@both_servers
async def test_batches_of_one_address_leave_room_and_slots_for_another(server: str) -> None:
    settings = {"max_pending": 40, "concurrency": 4}
    async with serving(server, runners=[functions(hold=hold)], node=settings) as api, AsyncExitStack() as stack:
        greedy = await greedy_client(api, stack)
        batch = [{"containers": ["hold"], "data": {}}] * 20
        found = [await greedy.post("/api/jobs/batch", batch) for _ in range(10)]
        assert [answer.status for answer in found] == [200, 200] + [429] * 8
        assert sum("id" in item for answer in found[:2] for item in answer.json) == 30
        last = found[-1]
        assert last.error == "you have 30 unfinished jobs; wait until some are finished"
        assert int(last.headers["Retry-After"]) >= 1
        for _ in range(20):
            mine = await api.post("/api/jobs", {"containers": ["echo"], "data": {"n": 1}}, headers=WAITING)
            assert (mine.status, mine.json["status"]) == (200, "success")


@both_servers
async def test_unread_streams_of_one_address_leave_slots_for_jobs_and_streams_of_another(server: str) -> None:
    streams = Streams()
    runner = functions(stream=streams.stream)
    async with serving(server, runners=[runner], node={"concurrency": 8}) as api, AsyncExitStack() as stack:
        greedy = await greedy_client(api, stack)
        body = {"containers": ["stream"], "data": {}}

        async def open_one(client: Api) -> None:
            async with client.session.post(f"{api.url}/api/jobs/stream", json=body) as response:
                assert response.status == 200
                await anyio.sleep_forever()

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(open_one, greedy)
            await until(lambda: streams.running == 3)
            tasks.start_soon(open_one, api)
            await until(lambda: streams.running == 4)
            for _ in range(20):
                mine = await api.post("/api/jobs", {"containers": ["echo"], "data": {"n": 1}}, headers=WAITING)
                assert (mine.status, mine.json["status"]) == (200, "success")
            assert streams.running == 4
            tasks.cancel_scope.cancel()
