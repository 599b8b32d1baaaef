"""Deletion of finished jobs that are kept no longer."""

import logging
from collections.abc import Awaitable, Callable

import anyio

from nodekit.errors import StoreFailed
from nodekit.interfaces.store import JobStore
from nodekit.model.clock import NodeClock
from nodekit.model.counting import counted
from nodekit.model.limits import NodeLimits, finite

logger = logging.getLogger("nodekit.node")

SLICE = 25
"""Largest number of jobs that are deleted at once. A store deletes fewer if they are large."""
SHARE = 0.2
"""Largest part of the time that deleting takes, so that the store has time for everybody else."""
SLICE_SECONDS = 0.1
"""Time that deleting a slice takes at most, where nothing else is to be done. If it takes longer, it has waited for
others, and the pause is no longer for that: otherwise more jobs would come in than are deleted, on a busy machine."""
ROUND_SECONDS = 10.0
"""Longest pause between two rounds."""


class Retention:
    """The rounds in which a node deletes finished jobs, as its limits say."""

    def __init__(self, store: JobStore, limits: NodeLimits, clock: NodeClock) -> None:
        self._store = store
        self._now, self._monotonic = clock.now, clock.monotonic
        self._seconds, self._jobs = finite(limits.keep_finished_seconds), limits.keep_finished_jobs

    async def run(self) -> None:
        """Delete until cancelled. A store that fails is tried again in the next round."""
        if self._seconds is None and self._jobs is None:
            logger.info("finished jobs are kept for ever: neither keep_finished_seconds nor keep_finished_jobs is set")
            return
        failed = False
        while True:
            try:
                if deleted := await in_slices(self._slice, self._monotonic):
                    logger.info("%s deleted", counted(deleted, "finished job", "was", "were"))
                failed = False
            except StoreFailed as error:
                if not failed:
                    logger.warning("finished jobs cannot be deleted: %s", error)
                failed = True
            await anyio.sleep(min(ROUND_SECONDS, self._seconds or ROUND_SECONDS))

    async def _slice(self, limit: int) -> int:
        before = None if self._seconds is None else self._now() - self._seconds
        return await self._store.expire(finished_before=before, keep=self._jobs, limit=limit)


async def in_slices(expire: Callable[[int], Awaitable[int]], monotonic: Callable[[], float]) -> int:
    """Call `expire` with `SLICE` until it deletes no more jobs. Return their total number.

    Others may delete the same jobs at the same time, so it is asked once more before it is believed.
    """
    deleted, idle = 0, 0
    while True:
        began = monotonic()
        some = await expire(SLICE)
        took = monotonic() - began
        deleted += some
        idle = 0 if some else idle + 1
        if idle == 2:
            return deleted
        await anyio.sleep(min(took, SLICE_SECONDS) * (1 / SHARE - 1))
