"""Streams that an earlier run of the store left unfinished. They fail at once, or later if the table is full."""

import logging
from collections.abc import Awaitable, Callable

from nodekit.errors import StoreFailed
from nodekit.interfaces.store import Settlement, Unfinished
from nodekit.model.container import ClientId, JobId
from nodekit.model.giving_back import interrupted_outcome
from nodekit.model.job import Outcome

logger = logging.getLogger("nodekit.store")


class Interrupted:
    """Interrupted streams that have not failed yet. A full disk must not prevent the store from opening."""

    def __init__(
        self,
        settle: Callable[[JobId, Outcome, ClientId | None], Awaitable[Settlement | None]],
        ended: Callable[[JobId], None],
    ) -> None:
        self._settle = settle
        self._ended = ended
        self.left: list[Unfinished] = []
        """Streams that have not failed yet."""

    def put(self, entry: Unfinished) -> None:
        self.left.append(entry)

    async def fail(self) -> None:
        """Fail as many as possible. Call this again after a successful write."""
        while self.left:
            entry = self.left.pop()
            try:
                settled = await self._settle(entry.id, interrupted_outcome(entry.due), None)
            except StoreFailed as error:
                self.left.append(entry)
                logger.error(
                    "streams of an earlier run cannot be failed yet; the store tries again soon: %s",
                    error,
                )
                return
            if settled is not None and settled.now:
                self._ended(entry.id)
