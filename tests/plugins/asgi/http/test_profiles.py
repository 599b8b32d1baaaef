"""The profile `infernet-1.4`: the replies that callers of older nodes expect, where they differ."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from http_api import Api, serving

from nodekit.testing.contracts.transports.http_submitting import MALFORMED, REFUSED
from nodekit_asgi import Limits

pytestmark = pytest.mark.anyio

UNKNOWN = "01900000-0000-7000-8000-000000000000"


@pytest.fixture
async def api(server: str) -> AsyncIterator[Api]:
    async with serving(server, profile="infernet-1.4", status_networks=("127.0.0.1",)) as api:
        yield api


def test_ours_is_the_one_where_none_is_named_and_another_name_is_an_error() -> None:
    assert Limits().profile == "infernet-0.1"
    with pytest.raises(msgspec.ValidationError, match="profile"):
        msgspec.convert({"profile": "infernet-2"}, Limits)


async def test_a_refusal_is_405_with_the_same_words(api: Api) -> None:
    for body, error, params in REFUSED:
        answer = await api.post("/api/jobs", body)
        assert (answer.status, answer.error, answer.json.get("params", {})) == (405, error, params), body
        assert (await api.post("/api/jobs/batch", [body])).json == [answer.json]


async def test_what_is_malformed_is_400(api: Api) -> None:
    for body in ("", "{", *(body for body, _ in MALFORMED)):
        assert (await api.post("/api/jobs", body)).status == 400, body


async def test_asking_for_ids_that_are_not_there_is_an_empty_list(api: Api) -> None:
    id = await api.submit("echo")
    for query in (f"id={UNKNOWN}", "id=x&id=y", f"id={UNKNOWN}&wait=5", f"id={UNKNOWN}&intermediate=true"):
        answer = await api.get(f"/api/jobs?{query}")
        assert (answer.status, answer.json) == (200, []), query
    async with api.as_other_client() as other:
        assert (await other.get(f"/api/jobs?id={id}")).json == []
    assert len((await api.get(f"/api/jobs?id={id}&id={UNKNOWN}")).json) == 1
    for path in (f"/api/jobs/{UNKNOWN}", f"/api/jobs/{UNKNOWN}/events", "/api/job"):
        assert (await api.get(path)).status == 404
    assert (await api.call("DELETE", f"/api/jobs/{UNKNOWN}")).status == 404


async def test_a_status_report_is_answered_with_null_and_its_errors_are_the_same(api: Api) -> None:
    id = await api.submit("gate")

    async def put(**report: Any) -> Any:
        return await api.call("PUT", "/api/status", data=json.dumps({"containers": ["gate"], **report}))

    for status in ("running", "success"):
        answer = await put(id=id, status=status)
        assert (answer.status, answer.json) == (200, None)
    assert (await put(id=id, status="success")).status == 409
    assert (await put(id=UNKNOWN, status="success")).status == 404
    assert (await put(id=id)).status == 400


async def test_all_else_is_the_same(api: Api) -> None:
    id = await api.submit("echo", "echo", n=1)
    (job,) = await api.results(id, intermediate=True)
    result = {"container": "echo", "output": {"n": 1}}
    assert job == {"id": id, "status": "success", "result": result, "intermediate_results": [result]}
    assert (await api.get("/api/jobs")).json == [id]
    assert (await api.call("DELETE", "/api/jobs")).status == 405
    assert (await api.get("/api/jobs?pending=x")).status == 400
    answers = await asyncio.gather(*(api.get(path) for path in ("/info", "/health", "/resources")))
    assert [answer.status for answer in answers] == [200, 200, 200]
