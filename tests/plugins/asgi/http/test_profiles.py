"""Profiles: the replies that callers of older nodes expect, where they differ."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from http_api import Api, serving

from nodekit_asgi import Limits
from nodekit_asgi.wire.profiles import PROFILES

pytestmark = pytest.mark.anyio

UNKNOWN = "01900000-0000-7000-8000-000000000000"


@pytest.fixture(params=PROFILES)
def profile(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def api(server: str, profile: str) -> AsyncIterator[Api]:
    async with serving(server, profile=profile, status_networks=("127.0.0.1",)) as api:
        yield api


def of(profile: str, ours: Any, older: Any) -> Any:
    return {"infernet-0.1": ours, "infernet-1.4": older}[profile]


def test_ours_is_the_one_where_none_is_named_and_another_name_is_an_error() -> None:
    assert Limits().profile == "infernet-0.1"
    with pytest.raises(msgspec.ValidationError, match="profile"):
        msgspec.convert({"profile": "infernet-2"}, Limits)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"containers": [], "data": {}}, {"error": "No containers specified"}),
        (
            {"containers": ["nope"], "data": {}},
            {"error": "Container not supported", "params": {"container": "nope"}},
        ),
        (
            {"containers": ["inner"], "data": {}},
            {"error": "First container must be external", "params": {"first_container": "inner"}},
        ),
        (
            {"containers": ["echo"], "data": {}, "requires_proof": True},
            {"error": "Container does not generate proof", "params": {"container": "echo"}},
        ),
        (
            {"containers": ["far"], "data": {}},
            {
                "error": "Container not allowed for address",
                "params": {"container": "far", "address": "127.0.0.1"},
            },
        ),
        ({"containers": ["echo"], "data": {}, "pipeline": "x"}, {"error": "Pipeline not supported"}),
        ({"signature": {}, "subscription": {}}, {"error": "Chain not enabled"}),
    ],
)
async def test_a_refusal_has_the_status_of_the_profile_and_the_same_words(
    api: Api, profile: str, body: Any, error: Any
) -> None:
    answer = await api.post("/api/jobs", body)
    assert answer.status == of(profile, 400, 405)
    assert {**answer.json, **error} == answer.json
    (item,) = (await api.post("/api/jobs/batch", [body])).json
    assert item == answer.json


@pytest.mark.parametrize(
    "body", [b"", b"{", {"data": {}}, {"containers": "echo", "data": {}}, {"containers": ["echo"]}]
)
async def test_what_is_malformed_is_400_in_each(api: Api, body: Any) -> None:
    assert (await api.post("/api/jobs", body)).status == 400


async def test_asking_for_ids_that_are_not_there_is_404_or_an_empty_list(api: Api, profile: str) -> None:
    id = await api.submit("echo")
    for query in (f"id={UNKNOWN}", "id=x&id=y", f"id={UNKNOWN}&wait=5", f"id={UNKNOWN}&intermediate=true"):
        answer = await api.get(f"/api/jobs?{query}")
        assert answer.status == of(profile, 404, 200)
        assert answer.json == of(profile, {"error": "no such job"}, [])
    async with api.as_other_client() as other:
        assert (await other.get(f"/api/jobs?id={id}")).status == of(profile, 404, 200)
    assert len((await api.get(f"/api/jobs?id={id}&id={UNKNOWN}")).json) == 1
    for path in (f"/api/jobs/{UNKNOWN}", f"/api/jobs/{UNKNOWN}/events", "/api/job"):
        assert (await api.get(path)).status == 404
    assert (await api.call("DELETE", f"/api/jobs/{UNKNOWN}")).status == 404


async def test_a_status_report_is_answered_as_the_profile_says_and_its_errors_are_the_same(
    api: Api, profile: str
) -> None:
    id = await api.submit("gate")

    async def put(**report: Any) -> Any:
        return await api.call("PUT", "/api/status", data=json.dumps({"containers": ["gate"], **report}))

    for status in ("running", "success"):
        answer = await put(id=id, status=status)
        assert (answer.status, answer.json) == (200, of(profile, {}, None))
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
