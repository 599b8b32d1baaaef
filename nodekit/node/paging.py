"""Pages of ids. Each must lead on, or a caller that reads all pages would loop for ever."""

from collections.abc import Sequence

from nodekit.errors import StoreFailed
from nodekit.model.container import JobId


def check_page(ids: Sequence[JobId], after: JobId | None) -> None:
    """Raise `StoreFailed` if the last id, behind which the next page begins, is not behind `after`."""
    if ids and after is not None and ids[-1] <= after:
        text = f"its find(after={after!r}) answered {ids[-1]!r}, which is not behind it: ids are answered oldest first"
        raise StoreFailed(f"the store is broken: {text}, and only those greater than `after`")
