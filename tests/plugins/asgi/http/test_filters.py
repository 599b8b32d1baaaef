"""`GET /api/jobs?status=…[&container=…][&error=…]`."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode, urljoin

import pytest
from components import functions
from http_api import serving

from nodekit import Job, JobQuery
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


async def test_a_page_whose_jobs_are_all_deleted_meanwhile_goes_on_where_it_began() -> None:
    async def fetch(ids: Sequence[str], **asked: Any) -> list[Job]:
        return []

    node: Any = SimpleNamespace(fetch=fetch)
    for after, expected in ((None, "0"), ("7", "7")):
        assert await listing._cursor(node, JobQuery(order="finished", after=after), ["a", "b"]) == expected
