"""`DELETE /api/jobs/{id}`."""

import asyncio
from typing import Any

import anyio
import pytest
from components import functions, until
from http_api import Api, serving

from nodekit import JobStore

pytestmark = pytest.mark.anyio


async def delete(api: Api, id: str) -> Any:
    answer = await api.call("DELETE", f"/api/jobs/{id}")
    assert answer.status == 200, answer.body
    return answer.json


async def test_who_waits_for_a_job_learns_that_it_was_cancelled(api: Api) -> None:
    id = await api.submit("gate")
    asked = asyncio.create_task(api.get(f"/api/jobs?id={id}&wait=60"))
    submitted = asyncio.create_task(
        api.post("/api/jobs", {"containers": ["gate"], "data": {}}, headers={"Prefer": "wait=60"})
    )
    await until(lambda: api.gate.running == 2)
    for job in (await api.get("/api/jobs")).json:
        await delete(api, job)
    assert (await asked).json[0]["result"]["error"] == "cancelled"
    assert (await submitted).json["result"]["error"] == "cancelled"


async def test_jobs_cancelled_while_they_finish_end_in_one_way_that_every_reply_tells(
    server: str, store: JobStore
) -> None:
    """Some jobs are done, some would never be, and most are about to be."""

    async def slow(data: Any) -> Any:
        await anyio.sleep(data["seconds"])
        return data

    async with serving(server, runners=[functions(slow=slow)], node={"concurrency": 100, "store": store}) as api:
        seconds = [0.0] * 10 + [n / 1000 for n in range(60)] + [60.0] * 10
        ids = [await api.submit("slow", "echo", seconds=one) for one in seconds]
        deleted = await asyncio.gather(*(delete(api, id) for id in ids))
        at_once = await api.results(*ids)
        await until(lambda: not api.node._executor.running)
        later = await api.results(*ids)
        assert deleted == at_once == later
        histories = [(await api.get(f"/api/jobs/{id}")).json for id in ids]
    outcomes = [(job["status"], job["result"].get("error")) for job in deleted]
    assert set(outcomes) == {("success", None), ("failed", "cancelled")}
    assert [history["status"] for history in histories] == [status for status, _ in outcomes]
    assert {history["state"] for history in histories} == {"success", "cancelled"}
