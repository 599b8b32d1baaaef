"""`PUT /api/status`: results of jobs that ran elsewhere, reported by clients that the operator trusts."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from components import until
from http_api import Answer, Api, serving

from nodekit import JobStore

pytestmark = pytest.mark.anyio

UNKNOWN = "01900000-0000-7000-8000-000000000000"
REPORTERS = ("127.0.0.2", "10.0.0.0/8")


async def put(api: Api, body: Any, **options: Any) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body)
    return await api.call("PUT", "/api/status", data=data, **options)


def report(id: str, status: str = "success", *containers: str, **data: Any) -> dict[str, Any]:
    return {"id": id, "status": status, "containers": containers or ["gate"], **data}


@pytest.fixture
async def api(server: str) -> AsyncIterator[Api]:
    """Serve a node that takes reports from this client."""
    async with serving(server, status_networks=("127.0.0.1",)) as api:
        yield api


async def job(api: Api, id: str) -> Any:
    (found,) = (await api.get(f"/api/jobs?id={id}")).json
    return found


async def test_a_success_ends_anybodys_job_with_the_data_and_aborts_its_step(server: str, store: JobStore) -> None:
    async with serving(server, status_networks=REPORTERS, node={"store": store}) as api:
        id = await api.submit("echo", "gate", n=1)
        await until(lambda: api.gate.running)
        body = b'{"id":"%s","status":"success","containers":["x","far"],"data":{"n": 1.50,"n":2},"more":1}'
        async with api.as_other_client("127.0.0.2") as reporter:
            answer = await put(reporter, body % id.upper().encode())
            assert (answer.status, answer.json) == (200, {})
        await until(lambda: api.gate.cancelled == 1)
        raw = (await api.get(f"/api/jobs?id={id}&intermediate=true")).body
        assert b'"status":"success","result":{"container":"far","output":{"n": 1.50,"n":2}}' in raw
        assert json.loads(raw)[0]["intermediate_results"] == [{"container": "echo", "output": {"n": 1}}]
        assert (await api.get("/info")).json["pending"]["offchain"] == 0


async def test_a_success_without_data_is_null_and_any_json_is_an_output(api: Api) -> None:
    for given, output in (({}, None), ({"data": None}, None), ({"data": 0}, 0), ({"data": [1]}, [1])):
        id = await api.submit("gate")
        assert (await put(api, report(id, **given))).status == 200
        assert await job(api, id) == {"id": id, "status": "success", "result": {"container": "gate", "output": output}}


FAILURES: list[tuple[dict[str, Any], str]] = [
    ({}, "failed"),
    ({"data": "no room"}, "no room"),
    ({"data": {"error": "no room", "code": 7}}, "no room"),
    ({"data": "\x1b[2J\x9b\u202e\n"}, "\\x1b[2J\\x9b\\u202e\n"),
    *(({"data": data}, "failed") for data in ({"error": {"code": 7}}, {"error": ""}, "", None, [1])),
]
"""Reports of a failure without their fixed fields, and the error of the job."""


async def test_a_failure_ends_a_job_with_the_text_that_is_reported(api: Api) -> None:
    for given, error in FAILURES:
        id = await api.submit("gate")
        assert (await put(api, report(id, "failed", **given))).status == 200
        assert await job(api, id) == {"id": id, "status": "failed", "result": {"container": "gate", "error": error}}
        history = (await api.get(f"/api/jobs/{id}")).json
        assert history["failure"] == {"container": "gate", "error": error, "kind": "status"}


async def test_running_changes_nothing_and_says_whether_the_job_is_there_and_unfinished(api: Api) -> None:
    id, finished = await api.submit("gate"), await api.submit("echo")
    await api.results(finished)
    answer = await put(api, report(id, "running", data={"n": 1}))
    assert (answer.status, answer.json) == (200, {})
    assert (await job(api, id))["status"] == "running"
    assert (await put(api, report(finished, "running"))).status == 409


async def test_the_first_end_is_the_only_one(server: str, store: JobStore) -> None:
    async with serving(server, status_networks=("127.0.0.1",), node={"store": store}) as api:
        id, echoed = await api.submit("gate"), await api.submit("echo")
        await api.results(echoed)
        before = await job(api, echoed)
        answers = await asyncio.gather(*(put(api, report(id, data=n)) for n in range(20)))
        assert sorted(answer.status for answer in answers) == [200] + 19 * [409]
        (first,) = [n for n, answer in enumerate(answers) if answer.status == 200]
        assert (await job(api, id))["result"]["output"] == first
        late = await put(api, report(echoed, "failed"))
        assert (late.status, late.error) == (409, "the job is finished")
        assert await job(api, echoed) == before


async def test_what_is_not_there_is_404(api: Api) -> None:
    for id in (UNKNOWN, "x", "", "\0", UNKNOWN[:-1], UNKNOWN.replace("-", "")):
        for status in ("running", "success"):
            answer = await put(api, report(id, status))
            assert (answer.status, answer.error) == (404, "no such job")


MALFORMED: list[tuple[Any, str]] = [
    ({}, "id"),
    ({"id": 1, "status": "success", "containers": ["a"]}, "id"),
    ({"id": UNKNOWN, "containers": ["a"]}, "status"),
    ({"id": UNKNOWN, "status": "done", "containers": ["a"]}, "status"),
    ({"id": UNKNOWN, "status": "success"}, "containers"),
    *(({"id": UNKNOWN, "status": "success", "containers": wrong}, "containers") for wrong in ("a", [], [1])),
    *((body, "the body") for body in ([], b"", b"{", b'{"id":"\xff"}')),
    (b'{"id":"x","status":"success","containers":["a"],"data":NaN}', "the body"),
]
"""Reports, and the field that the error names."""


async def test_a_malformed_report_is_400_and_names_the_field(api: Api) -> None:
    for body, field in MALFORMED:
        answer = await put(api, body)
        assert (answer.status, answer.error.startswith(field)) == (400, True), (body, answer.error)


async def test_only_networks_that_the_operator_names_may_report(server: str) -> None:
    for networks in ((), ("127.0.0.2/31", "::/0", "10.0.0.0/8")):
        async with serving(server, status_networks=networks) as api:
            id = await api.submit("gate")
            for body in (report(id), report(UNKNOWN), b"{"):
                answer = await put(api, body)
                assert (answer.status, "status_networks" in answer.error) == (403, True)
            assert (await job(api, id))["status"] == "running"
            async with api.as_other_client("127.0.0.3") as other:
                assert (await put(other, report(id))).status == (200 if networks else 403)


async def test_a_client_on_a_unix_socket_may_not_report(server: str, tmp_path: Path) -> None:
    path = tmp_path / "api.socket"
    async with serving(server, bind=f"unix:{path}", status_networks=("0.0.0.0/0", "::/0")) as served:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
            api = Api("http://localhost", session, served.node, served.gate)
            id = await api.submit("gate")
            assert (await put(api, report(id))).status == 403


async def test_who_waits_for_a_job_learns_what_was_reported(api: Api) -> None:
    id = await api.submit("gate")
    asked = asyncio.create_task(api.get(f"/api/jobs?id={id}&wait=60"))
    await put(api, report(id, data=7))
    assert (await asked).json[0]["result"]["output"] == 7
