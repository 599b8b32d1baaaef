"""`DELETE /api/jobs/{id}`."""

import asyncio
from typing import Any
from uuid import uuid4

import anyio
import pytest
from http_api import Api, serving
from parts import functions, until

from nodekit import JobStore

pytestmark = pytest.mark.anyio

UNKNOWN = "01900000-0000-7000-8000-000000000000"


async def delete(api: Api, id: str) -> Any:
    answer = await api.call("DELETE", f"/api/jobs/{id}")
    assert answer.status == 200, answer.body
    return answer.json


async def test_a_running_job_is_cancelled_and_its_step_aborted(api: Api) -> None:
    assert api.gate is not None
    id = await api.submit("echo", "gate", "echo")
    await until(lambda: api.gate and api.gate.running)
    cancelled = {"id": id, "status": "failed", "result": {"container": "gate", "error": "cancelled"}}
    assert await delete(api, id) == cancelled
    await until(lambda: api.gate and not api.gate.running)
    assert api.gate.cancelled == 1
    assert (await api.get(f"/api/jobs?id={id}")).json == [cancelled]
    assert (await api.get("/info")).json["pending"]["offchain"] == 0


async def test_a_job_in_the_queue_is_cancelled_and_never_runs(server: str) -> None:
    async with serving(server, node={"concurrency": 1}) as api:
        assert api.gate is not None
        running, queued = await api.submit("gate"), await api.submit("gate")
        await until(lambda: api.gate and api.gate.running)
        assert (await delete(api, queued))["result"] == {"container": "gate", "error": "cancelled"}
        api.gate.opened.set()
        (job,) = await api.results(running)
        assert job["status"] == "success"
        assert api.gate.calls == 1


async def test_a_finished_job_is_returned_as_it_is_however_often(api: Api) -> None:
    for container in ("echo", "fail"):
        id = await api.submit(container, n=1)
        (finished,) = await api.results(id)
        assert [await delete(api, id) for _ in range(3)] == [finished] * 3
    running = await api.submit("gate")
    cancelled = await delete(api, running)
    assert await delete(api, running) == cancelled


async def test_what_is_no_job_of_this_client_is_404_and_goes_on(api: Api) -> None:
    id = await api.submit("gate")
    async with api.as_other_client() as other:
        assert (await other.call("DELETE", f"/api/jobs/{id}")).status == 404
    assert (await api.get(f"/api/jobs?id={id}")).json[0]["status"] == "running"
    for nothing in (
        UNKNOWN,
        str(uuid4()),
        "x",
        "%7Bid%7D",
        "{id}",
        id[:-1],
        id.replace("-", ""),
        "%00",
        "a%20b",
        "%FF",
    ):
        answer = await api.call("DELETE", f"/api/jobs/{nothing}")
        assert (answer.status, answer.error) == (404, "no such job"), nothing
    assert (await delete(api, id.upper()))["id"] == id


@pytest.mark.parametrize(
    "path", ["/api/jobs/{id}/", "/api/jobs/{id}/x", "/api/jobs//", "//api/jobs/{id}", "/api/jobs/"]
)
async def test_paths_with_an_id_match_exactly_too(api: Api, path: str) -> None:
    id = await api.submit("gate")
    for method in ("DELETE", "GET"):
        answer = await api.call(method, path.format(id=id))
        assert (answer.status, answer.error) == (404, "no such path")
    assert (await api.get(f"/api/jobs?id={id}")).json[0]["status"] == "running"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", f"/api/jobs/{UNKNOWN}", {"GET", "DELETE"}),
        ("PUT", "/api/jobs/x", {"GET", "DELETE"}),
        ("DELETE", "/api/jobs/batch", {"POST"}),
        ("DELETE", "/api/jobs", {"GET", "POST"}),
    ],
)
async def test_a_path_in_the_table_wins_over_one_with_an_id(api: Api, method: str, path: str, allow: set[str]) -> None:
    answer = await api.call(method, path)
    assert answer.status == 405
    assert {name.strip() for name in answer.headers["Allow"].split(",")} == allow


async def test_who_waits_for_a_job_learns_that_it_was_cancelled(api: Api) -> None:
    id = await api.submit("gate")
    asked = asyncio.create_task(api.get(f"/api/jobs?id={id}&wait=60"))
    submitted = asyncio.create_task(
        api.post("/api/jobs", {"containers": ["gate"], "data": {}}, headers={"Prefer": "wait=60"})
    )
    await until(lambda: api.gate and api.gate.running == 2)
    for job in (await api.get("/api/jobs")).json:
        await delete(api, job)
    assert (await asked).json[0]["result"]["error"] == "cancelled"
    assert (await submitted).json["result"]["error"] == "cancelled"


async def test_jobs_cancelled_while_they_finish_end_in_one_way_that_every_reply_tells(
    server: str, store: JobStore
) -> None:
    """Some are long done, some never would be, most are just about to be."""

    async def slow(data: Any) -> Any:
        await anyio.sleep(data["seconds"])
        return data

    async with serving(server, runners=[functions(slow=slow)], node={"concurrency": 300, "store": store}) as api:
        seconds = [0.0] * 20 + [n / 2000 for n in range(260)] + [60.0] * 20
        ids = [await api.submit("slow", "echo", seconds=one) for one in seconds]
        deleted = await asyncio.gather(*(delete(api, id) for id in ids))
        at_once = await api.results(*ids)
        await until(lambda: api.node and not api.node._executor.running)
        later = await api.results(*ids)
        assert deleted == at_once == later
        histories = [(await api.get(f"/api/jobs/{id}")).json for id in ids]
    outcomes = [(job["status"], job["result"].get("error")) for job in deleted]
    assert set(outcomes) == {("success", None), ("failed", "cancelled")}
    assert [history["status"] for history in histories] == [status for status, _ in outcomes]
    assert {history["state"] for history in histories} == {"success", "cancelled"}
