"""Pages of ids. Each must lead on, or a caller that reads all pages would loop for ever."""

from collections.abc import Sequence

from nodekit.errors import StoreFailed
from nodekit.model.container import JobId
from nodekit.model.queries import JobQuery, Page


def check_page(ids: Sequence[JobId], query: JobQuery) -> None:
    """Raise `StoreFailed` if the last id, behind which the next page begins, is not behind `query.after`."""
    after = query.after
    if not ids or after is None or query.order == "finished":  # finish numbers are not among the ids
        return
    if ids[-1] <= after if query.order == "oldest" else ids[-1] >= after:
        text = f"its find(after={after!r}) answered {ids[-1]!r}, which is not behind it: ids are answered {query.order}"
        raise StoreFailed(f"the store is broken: {text} first, and only those behind `after`")


def check_next(page: Page, query: JobQuery) -> None:
    """Raise `StoreFailed` if the cursor of the next page is not behind the one of this page."""
    check_page(page.ids, query)
    before, behind = query.after, page.next
    if before is None or behind is None:
        return
    if query.order == "finished":
        leads_on = int(behind) >= int(before)  # it stays there if all jobs of the page were deleted meanwhile
    else:
        leads_on = behind > before if query.order == "oldest" else behind < before
    if not leads_on:
        text = f"its page(after={before!r}) goes on at {behind!r}, which is not behind it"
        raise StoreFailed(f"the store is broken: {text}")
