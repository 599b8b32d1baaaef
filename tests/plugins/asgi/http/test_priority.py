"""Order and limits of clients: the field `Priority`, and the limit of pending jobs."""

from typing import Any

import pytest
from components import Gate, until
from http_api import Api, api_functions, serving

from nodekit import ClientLimits

pytestmark = pytest.mark.anyio

GATE = {"containers": ["gate"], "data": {}}
ECHO = {"containers": ["echo"], "data": {}}


def priority(text: str) -> dict[str, Any]:
    return {"headers": {"Priority": text}}


async def stored(api: Api, *answers: Any) -> list[int]:
    """Return the priorities of the stored jobs."""
    assert api.node is not None
    return [job.request.priority for job in await api.node.fetch([answer["id"] for answer in answers])]


async def test_the_more_urgent_is_run_first(server: str) -> None:
    gate, order = Gate(), []

    async def note(data: Any) -> Any:
        order.append(data["u"])

    runner = api_functions(gate)
    runner.add(type(runner.containers["echo"])(id="note"), note)
    async with serving(server, runners=[runner], node={"concurrency": 1}) as api:
        await api.submit("gate")
        await until(lambda: gate.running)
        ids = []
        for u in (7, 3, 0, 5, 1):
            answer = await api.post("/api/jobs", {"containers": ["note"], "data": {"u": u}}, **priority(f"u={u}"))
            ids.append(answer.json["id"])
        gate.opened.set()
        await api.results(*ids)
    assert order == [0, 1, 3, 5, 7]


async def test_a_client_gets_no_more_than_it_may(server: str) -> None:
    node = {"each_client": ClientLimits(max_priority=2), "clients": {"127.0.0.2": ClientLimits(max_priority=0)}}
    async with serving(server, node=node) as api:
        answers = [(await api.post("/api/jobs", ECHO, **priority(f"u={u}"))).json for u in (0, 1, 2, 6)]
        assert await stored(api, *answers) == [2, 2, 2, 6]
        async with api.as_other_client() as other:
            assert await stored(api, (await other.post("/api/jobs", ECHO, **priority("u=0"))).json) == [0]
