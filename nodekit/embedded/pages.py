"""Pages of searches, also from stores and tables that only know `find`."""

from typing import Any

from nodekit.interfaces.store import JobStore, JobTable
from nodekit.model.queries import Cursor, JobFields, JobQuery, Page


async def page_of(keeper: JobStore | JobTable, query: JobQuery) -> Page:
    """Return a page of a search: as the store itself ends it (`PagingStore`), or with as many jobs as there are."""
    paging: Any = keeper
    if hasattr(keeper, "page"):
        page: Page = await paging.page(query)
        return page
    ids = await keeper.find(query)
    return Page(ids, await _cursor(keeper, query, ids) if len(ids) == query.limit else None)


async def _cursor(keeper: JobStore | JobTable, query: JobQuery, ids: list[str]) -> Cursor | None:
    """Return the cursor behind a page: that of its last job, or of the last one that was not deleted meanwhile."""
    if query.order != "finished":
        return ids[-1]
    for some in (ids[-1:], ids):
        if jobs := await keeper.get(some, client=query.client, fields=JobFields.STATE):
            return query.cursor(jobs[-1])
    return query.after or "0"
