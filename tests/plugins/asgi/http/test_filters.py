"""`GET /api/jobs?status=…[&container=…][&error=…]`."""

from typing import Any
from urllib.parse import urlencode, urljoin

import pytest
from components import Gate
from http_api import Api, api_functions, serving

from nodekit import Container
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


async def test_a_retried_job_is_listed_as_what_it_is_now(api: Api) -> None:
    id = await api.submit("fail")
    await api.results(id)
    again = (await api.post(f"/api/jobs/{id}/retry", b"")).json["id"]
    await api.results(again)
    assert await listed(api, status="failed", container="fail") == [id, again]


async def test_pages_keep_what_they_are_filtered_by(server: str) -> None:
    async with serving(server, runners=[functions()]) as api:
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


async def test_without_a_limit_all_are_sent_in_slices(server: str) -> None:
    async with serving(server, runners=[functions()]) as api:
        items = [{"containers": [id], "data": {"text": "no"}} for id in ("odd", "odd", "echo")]
        ids: list[str] = []
        for _ in range(2):
            ids += [answer["id"] for answer in (await api.post("/api/jobs/batch", items * 300)).json]
        await api.results(*ids)
        answer = await api.get("/api/jobs?status=failed&container=odd&error=no")
        assert answer.json == [id for number, id in enumerate(ids) if number % 3 < 2]
        assert "Content-Length" not in answer.headers
