"""`Idempotency-Key` on `POST /api/jobs`."""

import asyncio
import json
from hashlib import blake2b
from io import BytesIO

import aiohttp
import pytest
from http_api import Api, api_functions, post, serving
from parts import Gate, until

from nodekit import JobStore

pytestmark = pytest.mark.anyio

GATE = {"containers": ["gate"], "data": {"n": 1}}
ECHO = {"containers": ["echo"], "data": {"n": 1}}


def key(text: str) -> dict[str, dict[str, str]]:
    return {"headers": {"Idempotency-Key": text}}


async def test_a_request_that_is_repeated_is_the_same_job(api: Api) -> None:
    assert api.gate is not None
    answers = [await api.post("/api/jobs", GATE, **key("mine-1")) for _ in range(5)]
    assert {answer.status for answer in answers} == {200}
    (id,) = {answer.json["id"] for answer in answers}
    assert (await api.get("/api/jobs")).json == [id]
    api.gate.opened.set()
    await api.results(id)
    assert (await api.post("/api/jobs", GATE, **key("mine-1"))).json == {"id": id}
    assert api.gate.calls == 1
    others = [await api.post("/api/jobs", GATE, **key("mine-2")), await api.post("/api/jobs", GATE)]
    assert len({id, *(answer.json["id"] for answer in others)}) == 3


async def test_of_fifty_at_once_with_one_key_one_becomes_a_job(server: str, store: JobStore) -> None:
    async with serving(server, node={"store": store}) as api:
        assert api.gate is not None
        answers = await asyncio.gather(*(api.post("/api/jobs", GATE, **key("mine")) for _ in range(50)))
        assert {answer.status for answer in answers} == {200}
        (id,) = {answer.json["id"] for answer in answers}
        assert (await api.get("/api/jobs")).json == [id]
        assert (await api.get("/info")).json["pending"]["offchain"] == 1
        api.gate.opened.set()
        await api.results(id)
        assert api.gate.calls == 1


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


async def test_another_body_is_422_down_to_its_bytes(api: Api) -> None:
    assert (await api.post("/api/jobs", ECHO, **key("mine"))).status == 200
    for body in (GATE, json.dumps(ECHO, indent=1), json.dumps(ECHO) + " "):
        answer = await api.post("/api/jobs", body, **key("mine"))
        assert (answer.status, "key" in answer.error) == (422, True)
    assert len((await api.get("/api/jobs")).json) == 1


async def test_a_key_is_the_clients_own(api: Api) -> None:
    mine = (await api.post("/api/jobs", ECHO, **key("k"))).json["id"]
    async with api.as_other_client() as other:
        theirs = await other.post("/api/jobs", GATE, **key("k"))
        assert theirs.status == 200
        assert theirs.json["id"] != mine
        assert (await other.get("/api/jobs")).json == [theirs.json["id"]]


async def test_a_refusal_is_not_kept(api: Api) -> None:
    refused = await api.post("/api/jobs", {"containers": ["nope"], "data": {}}, **key("k"))
    assert (refused.status, refused.error) == (400, "Container not supported")
    assert (await api.post("/api/jobs", ECHO, **key("k"))).status == 200


async def test_a_job_that_is_there_is_told_while_the_node_is_full(server: str) -> None:
    async with serving(server, node={"max_pending": 1}) as api:
        id = (await api.post("/api/jobs", GATE, **key("k"))).json["id"]
        assert (await api.post("/api/jobs", GATE, **key("k2"))).status == 503
        again = await api.post("/api/jobs", GATE, **key("k"))
        assert (again.status, again.json) == (200, {"id": id})
        assert (await api.post("/api/jobs", ECHO, **key("k"))).status == 422


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


@pytest.mark.parametrize("good", ["x", "x" * 255, '"8e03978e-40d5-43dd-bc93-6894a57f9324"', "!~,;=\\"])
async def test_a_key_is_taken_as_it_is(api: Api, good: str) -> None:
    assert (await api.post("/api/jobs", ECHO, **key(good))).status == 200
    assert (await api.post("/api/jobs", GATE, **key(good))).status == 422
    assert (await api.post("/api/jobs", GATE, **key(good[:-1] + "'"))).status == 200


@pytest.mark.parametrize("keys", [[""], ["a b"], ["x" * 256], ["\u00e9"], ["a", "a"]])
async def test_what_is_no_key_is_400_and_names_the_header(api: Api, keys: list[str]) -> None:
    async with api.raw() as connection:
        await connection.send(post(json.dumps(ECHO).encode(), *(f"Idempotency-Key: {key}" for key in keys)))
        answer = await connection.answer()
    assert (answer.status, "Idempotency-Key" in answer.error) == (400, True)
    assert (await api.get("/api/jobs")).json == []


async def test_a_batch_that_is_given_a_key_is_refused_because_it_would_not_keep_it(api: Api) -> None:
    answer = await api.post("/api/jobs/batch", [ECHO], **key("k"))
    assert (answer.status, "Idempotency-Key" in answer.error) == (400, True)
    assert (await api.get("/api/jobs")).json == []
