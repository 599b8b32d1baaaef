"""`Idempotency-Key` on `POST /api/jobs`."""

import asyncio
import json
from hashlib import blake2b
from io import BytesIO

import aiohttp
import pytest
from components import Gate, until
from http_api import Api, api_functions, serving

from nodekit import JobStore

pytestmark = pytest.mark.anyio

GATE = {"containers": ["gate"], "data": {"n": 1}}
ECHO = {"containers": ["echo"], "data": {"n": 1}}


def key(text: str) -> dict[str, dict[str, str]]:
    return {"headers": {"Idempotency-Key": text}}


async def test_of_fifty_different_ones_with_one_key_one_becomes_a_job_and_the_others_are_422(
    server: str, store: JobStore
) -> None:
    bodies = [{"containers": ["echo"], "data": {"n": n}} for n in range(50)]
    async with serving(server, node={"store": store}) as api:
        answers = await asyncio.gather(*(api.post("/api/jobs", body, **key("mine")) for body in bodies))
        assert sorted(answer.status for answer in answers) == [200] + [422] * 49
        (winner,) = [answer for answer in answers if answer.status == 200]
        assert (await api.get("/api/jobs")).json == [winner.json["id"]]
        (job,) = await api.results(winner.json["id"])
        assert job["result"]["output"] == bodies[answers.index(winner)]["data"]


async def test_a_job_that_is_there_is_told_while_the_node_drains(server: str) -> None:
    gate, told = Gate(), []
    async with aiohttp.ClientSession() as session:
        async with serving(server, runners=[api_functions(gate)], node={"drain_seconds": 30}) as served:
            api = Api(served.url, session, served.node, gate)
            id = (await api.post("/api/jobs", GATE, **key("k"))).json["id"]
            await until(lambda: gate.running)

            async def repeat() -> None:
                await until(lambda: api.node and api.node._executor._draining)
                for name in ("k", "k2"):
                    told.append(await api.post("/api/jobs", GATE, **key(name)))
                gate.opened.set()

            task = asyncio.create_task(repeat())
        await task
    assert [answer.status for answer in told] == [200, 503]
    assert told[0].json == {"id": id}


async def test_a_request_that_is_repeated_can_wait_as_well(api: Api) -> None:
    assert api.gate is not None
    id = (await api.post("/api/jobs", GATE, **key("k"))).json["id"]
    headers = {"Idempotency-Key": "k", "Prefer": "wait=60"}
    again = asyncio.create_task(api.post("/api/jobs", GATE, headers=headers))
    await until(lambda: api.node and api.node._waiters._waiters)
    api.gate.opened.set()
    for answer in (await again, await api.post("/api/jobs", GATE, headers=headers)):
        assert (answer.status, answer.json["id"], answer.json["status"]) == (200, id, "success")
    assert api.gate.calls == 1


@pytest.mark.parametrize("size", [10, 3 << 20])
async def test_a_body_is_known_by_its_digest_whatever_its_size(api: Api, size: int) -> None:
    body = json.dumps({"containers": ["echo"], "data": {"text": "x" * size}}).encode()
    ids = {(await api.call("POST", "/api/jobs", data=BytesIO(body), **key("k"))).json["id"] for _ in range(2)}
    assert api.node is not None
    (job,) = await api.node.fetch(list(ids))
    assert (job.request.idempotency_key, job.request.body_digest) == ("k", blake2b(body, digest_size=16).hexdigest())
    other = BytesIO(body.replace(b'x"', b'y"'))
    assert (await api.call("POST", "/api/jobs", data=other, **key("k"))).status == 422
