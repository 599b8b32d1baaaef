"""Who is served sooner, and who has too much already: `Priority`, and limits of clients."""

from typing import Any

import pytest
from http_api import Api, api_functions, serving
from multidict import CIMultiDict
from parts import Gate, until

from nodekit import ClientLimits

pytestmark = pytest.mark.anyio

GATE = {"containers": ["gate"], "data": {}}
ECHO = {"containers": ["echo"], "data": {}}


def priority(text: str) -> dict[str, Any]:
    return {"headers": {"Priority": text}}


async def stored(api: Api, *answers: Any) -> list[int]:
    """The priorities with which jobs were kept."""
    assert api.node is not None
    return [job.request.priority for job in await api.node.fetch([answer["id"] for answer in answers])]


async def test_an_urgency_is_that_of_the_job_or_of_all_jobs_of_a_batch(api: Api) -> None:
    for text, expected in (("u=0", 0), ("i, u=7;x", 7), ("i", 3), ("u=5, broken,", 3), ("u=8", 3)):
        one = (await api.post("/api/jobs", ECHO, **priority(text))).json
        batch = (await api.post("/api/jobs/batch", [ECHO, ECHO], **priority(text))).json
        assert await stored(api, one, *batch) == [expected] * 3
    assert await stored(api, (await api.post("/api/jobs", ECHO)).json) == [3]
    twice = {"headers": CIMultiDict([("Priority", "u=1"), ("Priority", "i, u=2")])}
    assert await stored(api, (await api.post("/api/jobs", ECHO, **twice)).json) == [2]


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


async def test_past_its_own_limit_a_client_is_429_and_others_are_not(server: str) -> None:
    async with serving(server, node={"each_client": ClientLimits(max_pending=2)}) as api:
        assert api.gate is not None
        ids = [await api.submit("gate") for _ in range(2)]
        answer = await api.post("/api/jobs", GATE)
        assert (answer.status, bool(answer.error)) == (429, True)
        assert int(answer.headers["Retry-After"]) >= 1
        batch = await api.post("/api/jobs/batch", [GATE, {}])
        assert (batch.status, int(batch.headers["Retry-After"]) >= 1) == (429, True)
        async with api.as_other_client() as other:
            assert (await other.post("/api/jobs", GATE)).status == 200
        api.gate.opened.set()
        await api.results(*ids)
        some = await api.post("/api/jobs/batch", [ECHO, {}, ECHO, ECHO])
        assert some.status == 200
        assert ["id" in item for item in some.json] == [True, False, True, False]
        assert all(item["error"] for item in some.json if "id" not in item)
