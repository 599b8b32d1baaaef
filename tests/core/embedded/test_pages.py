"""Pages of keepers that only know `find`."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from nodekit import Job, JobQuery, Page
from nodekit.embedded.pages import page_of

pytestmark = pytest.mark.anyio


async def test_a_page_whose_jobs_are_all_deleted_meanwhile_goes_on_where_it_began() -> None:
    async def find(query: JobQuery) -> list[str]:
        return ["a", "b"]

    async def get(ids: Sequence[str], **asked: Any) -> list[Job]:
        return []

    keeper: Any = SimpleNamespace(find=find, get=get)
    for after, expected in ((None, "0"), ("7", "7")):
        page = await page_of(keeper, JobQuery(order="finished", after=after, limit=2))
        assert page == Page(["a", "b"], expected)


async def test_a_page_with_fewer_jobs_than_were_asked_for_is_the_last() -> None:
    async def find(query: JobQuery) -> list[str]:
        return ["a", "b"]

    keeper: Any = SimpleNamespace(find=find)
    assert await page_of(keeper, JobQuery(limit=3)) == Page(["a", "b"], None)
    assert await page_of(keeper, JobQuery(limit=2)) == Page(["a", "b"], "b")
