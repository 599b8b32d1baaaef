"""`GET /api/jobs?status=…[&container=…][&error=…]`."""

from typing import Any
from urllib.parse import urlencode, urljoin

import pytest
from components import functions
from http_api import both_servers, serving

import nodekit_memory
from nodekit_asgi.api import listing

pytestmark = pytest.mark.anyio

TEXT = '100% of <that> & "more", été; it\'s'
ODD = "an odd & id/é"


async def test_pages_and_slices_keep_what_they_are_filtered_by(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(data: Any) -> Any:
        raise ValueError(TEXT)

    monkeypatch.setattr(listing, "SLICE", 10)
    async with serving(server, runners=[functions(**{"odd": fail, ODD: fail})]) as api:
        items = [{"containers": [id], "data": {}} for id in (ODD, "odd", "echo")]
        ids = [answer["id"] for answer in (await api.post("/api/jobs/batch", items * 25)).json]
        await api.results(*ids)
        whole = await api.get(f"/api/jobs?{urlencode({'status': 'failed', 'error': TEXT})}")
        assert whole.json == [id for number, id in enumerate(ids) if number % 3 < 2]
        query = {"status": "failed", "container": ODD, "error": TEXT, "limit": "10"}
        pages, path = [], f"/api/jobs?{urlencode(query)}"
        while path:
            pages.append(page := await api.get(path))
            link = page.headers.get("Link", "").partition(";")[0].strip("<>")
            assert link[:1] in ("", "?"), "relative, so that it works wherever the node is mounted"
            path = urljoin(path, link) if link else ""
        assert [len(page.json) for page in pages] == [10, 10, 5]
        assert [id for page in pages for id in page.json] == ids[::3]


@both_servers
async def test_a_short_or_empty_page_leads_on_by_its_link(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodekit_memory, "SLICE", 2)
    monkeypatch.setattr(nodekit_memory, "PAGE_SLICES", 1)
    async with serving(server) as api:
        items = [{"containers": [id], "data": {}} for id in (*["echo"] * 5, "fail", *["echo"] * 4)]
        ids = [answer["id"] for answer in (await api.post("/api/jobs/batch", items)).json]
        await api.results(*ids)
        failed = "/api/jobs?status=failed"
        assert (await api.get(failed)).json == [ids[5]], "without a limit, the reply is whole"
        for order in ("oldest", "newest", "finished"):
            pages, path = [], f"{failed}&order={order}&limit=10"
            while path:
                page = await api.get(path)
                assert page.status == 200
                pages.append(page.json)
                link = page.headers.get("Link", "").partition(";")[0].strip("<>")
                path = urljoin(path, link) if link else ""
            assert [id for page in pages for id in page] == [ids[5]]
            assert len(pages) >= 5
            assert [] in pages
