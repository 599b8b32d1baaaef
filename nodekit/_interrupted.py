"""Streams that an earlier run of a store has left: they are failed, at the latest once there is room to keep that."""

import logging
from collections.abc import Awaitable, Callable

from nodekit.container import ClientId, ContainerError, ContainerId, JobId
from nodekit.errors import StoreFailed
from nodekit.job import JobStatus, Outcome
from nodekit.store import Unfinished

logger = logging.getLogger("nodekit.store")


class Interrupted:
    """Those that are not failed yet. A full disk keeps no store from being opened for their sake."""

    def __init__(self, settle: Callable[[JobId, Outcome, ClientId | None], Awaitable[object]]) -> None:
        self._settle = settle
        self._left: list[Unfinished] = []

    def put(self, entry: Unfinished) -> None:
        self._left.append(entry)

    async def fail(self) -> None:
        """As many as can be; to be called again when something was kept."""
        while self._left:
            entry = self._left.pop()
            try:
                await self._settle(entry.id, interrupted(entry.due), None)
            except StoreFailed as error:
                self._left.append(entry)
                logger.error("streams of an earlier run are failed once there is room: %s", error)
                return


def interrupted(due: ContainerId) -> Outcome:
    """The end of a stream whose claim is gone."""
    return Outcome(JobStatus.FAILED, ContainerError(container=due, error="interrupted", kind="interrupted"))
