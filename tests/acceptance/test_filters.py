"""`GET /api/jobs?status=…[&container=…][&error=…]`."""

from typing import Any
from urllib.parse import quote, urlencode, urljoin

import pytest
from http_api import Api, api_functions, serving
from parts import Gate

from nodekit import Container, JobStore
from nodekit_function import FunctionRunner

pytestmark = pytest.mark.anyio

TEXT = '100% of <that> & "more", été; it\'s'


def functions() -> FunctionRunner:
    async def odd(data: Any) -> Any:
        raise ValueError(data["text"])

    runner = api_functions(Gate())
    runner.add(Container(id="odd"), odd)
    runner.add(Container(id="an odd & id/é"), odd)
    return runner


async def listed(api: Api, **query: str) -> Any:
    answer = await api.get(f"/api/jobs?{urlencode(query)}")
    assert answer.status == 200, answer.body
    return answer.json


async def test_jobs_are_listed_by_status_container_and_error(server: str, store: JobStore) -> None:
    async with serving(server, runners=[functions()], node={"store": store}) as api:
        good, bad = await api.submit("echo"), await api.submit("echo", "fail", "echo")
        one, other = await api.submit("odd", text="Timed out"), await api.submit("odd", text="timed out")
        cancelled, running = await api.submit("gate"), await api.submit("gate")
        await api.call("DELETE", f"/api/jobs/{cancelled}")
        await api.results(good, bad, one, other, cancelled)
        assert await listed(api, status="running") == [running]
        assert await listed(api, status="success") == [good]
        assert await listed(api, status="failed") == [bad, one, other, cancelled]
        assert await listed(api, status="failed", container="fail") == [bad]
        assert await listed(api, status="failed", container="odd") == [one, other]
        assert await listed(api, status="failed", container="echo") == []
        assert await listed(api, status="failed", container="gate", error="cancelled") == [cancelled]
        assert await listed(api, status="failed", error="timed") == [other]
        assert await listed(api, status="failed", error="imed out") == [one, other]
        assert await listed(api, status="failed", error="ValueError", container="odd", after=one) == [other]
        assert await listed(api, status="failed", error="") == [bad, one, other, cancelled]
        async with api.as_other_client() as another:
            assert await listed(another, status="failed") == []
            theirs = await another.submit("fail")
            await another.results(theirs)
            assert await listed(another, status="failed") == [theirs]
        assert await listed(api, status="failed", container="fail") == [bad]


async def test_errors_that_no_step_gave_are_found_as_well(api: Api) -> None:
    assert api.node is not None
    id = await api.submit("echo", "gate")
    await api.call("DELETE", f"/api/jobs/{id}")
    assert await listed(api, status="failed", container="gate", error="cancelled") == [id]
    assert await listed(api, status="failed", container="echo") == []


async def test_a_retried_job_is_listed_as_what_it_is_now(api: Api) -> None:
    id = await api.submit("fail")
    await api.results(id)
    again = (await api.post(f"/api/jobs/{id}/retry", b"")).json["id"]
    await api.results(again)
    assert await listed(api, status="failed", container="fail") == [id, again]


async def test_pages_keep_what_they_are_filtered_by(server: str, store: JobStore) -> None:
    async with serving(server, runners=[functions()], node={"store": store}) as api:
        item = {"containers": ["an odd & id/é"], "data": {"text": TEXT}}
        others = [{"containers": ["odd"], "data": {"text": TEXT}}, {"containers": ["echo"], "data": {}}]
        answers = (await api.post("/api/jobs/batch", [item, *others] * 25)).json
        await api.results(*(answer["id"] for answer in answers))
        found: list[str] = []
        query = {"status": "failed", "container": "an odd & id/é", "error": TEXT, "limit": "10"}
        path, pages = f"/api/jobs?{urlencode(query)}", 0
        while path:
            page = await api.get(path)
            assert page.status == 200
            found, pages = found + page.json, pages + 1
            link = page.headers.get("Link", "").partition(";")[0].strip("<>")
            path = urljoin(path, link) if link else ""
        assert found == [answer["id"] for answer in answers[::3]]
        assert pages == 3
        assert await listed(api, status="failed", error=TEXT) == sorted(found + [a["id"] for a in answers[1::3]])


async def test_without_a_limit_all_are_sent_in_slices(server: str, store: JobStore) -> None:
    async with serving(server, runners=[functions()], node={"store": store}) as api:
        items = [{"containers": [id], "data": {"text": "no"}} for id in ("odd", "odd", "echo")]
        ids: list[str] = []
        for _ in range(4):
            ids += [answer["id"] for answer in (await api.post("/api/jobs/batch", items * 333)).json]
        await api.results(*ids)
        answer = await api.get("/api/jobs?status=failed&container=odd&error=no")
        assert answer.json == [id for number, id in enumerate(ids) if number % 3 < 2]
        assert "Content-Length" not in answer.headers


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("status=done", "status"),
        ("status=Failed", "status"),
        ("status=cancelled", "status"),
        ("status=", "status"),
        ("status", "status"),
        ("status=failed&status=success", "status"),
        ("status=failed&pending=false", "pending"),
        ("status=running&pending=true", "pending"),
        ("container=echo", "container"),
        ("status=success&container=echo", "container"),
        ("status=running&error=x", "error"),
        ("error=", "error"),
        ("pending=false&error=x", "error"),
        ("status=failed&container=a&container=b", "container"),
        ("status=failed&error=a&error=b", "error"),
        ("status=failed&limit=0", "limit"),
        ("status=failed&after=x", "after"),
        ("status=failed&error=%FF", "query"),
    ],
)
async def test_a_filter_that_makes_no_sense_names_its_parameter(api: Api, query: str, name: str) -> None:
    answer = await api.get(f"/api/jobs?{query}")
    assert (answer.status, name in answer.error) == (400, True), answer.body


async def test_beside_ids_filters_have_no_meaning(api: Api) -> None:
    id = await api.submit("echo")
    for query in ("status=failed", "status=nothing", f"container={quote('x')}&error=y"):
        assert [job["id"] for job in (await api.get(f"/api/jobs?id={id}&{query}")).json] == [id]
