"""`Idempotency-Key` on `POST /api/jobs`."""

import asyncio
import json
from hashlib import blake2b
from io import BytesIO

import pytest
from components import until
from http_api import Api

pytestmark = pytest.mark.anyio

GATE = {"containers": ["gate"], "data": {"n": 1}}


def key(text: str) -> dict[str, dict[str, str]]:
    return {"headers": {"Idempotency-Key": text}}


async def test_a_request_that_is_repeated_can_wait_as_well(api: Api) -> None:
    id = (await api.post("/api/jobs", GATE, **key("k"))).json["id"]
    headers = {"Idempotency-Key": "k", "Prefer": "wait=60"}
    again = asyncio.create_task(api.post("/api/jobs", GATE, headers=headers))
    await until(lambda: api.node._waiters.present)
    api.gate.opened.set()
    for answer in (await again, await api.post("/api/jobs", GATE, headers=headers)):
        assert (answer.status, answer.json["id"], answer.json["status"]) == (200, id, "success")
    assert api.gate.calls == 1


@pytest.mark.parametrize("size", [10, 3 << 20])
async def test_a_body_is_known_by_its_digest_whatever_its_size(api: Api, size: int) -> None:
    body = json.dumps({"containers": ["echo"], "data": {"text": "x" * size}}).encode()
    ids = {(await api.call("POST", "/api/jobs", data=BytesIO(body), **key("k"))).json["id"] for _ in range(2)}
    (job,) = await api.node.fetch(list(ids))
    assert (job.request.idempotency_key, job.request.body_digest) == ("k", blake2b(body, digest_size=16).hexdigest())
    other = BytesIO(body.replace(b'x"', b'y"'))
    assert (await api.call("POST", "/api/jobs", data=other, **key("k"))).status == 422
