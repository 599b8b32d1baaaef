"""Limits on what the store holds on its disk: for each group, and in all."""

from collections.abc import Mapping, Sequence
from typing import Any

from nodekit.errors import TooMuchStored, Unavailable
from nodekit.interfaces.store import JobStore
from nodekit.model.container import GroupId
from nodekit.model.counting import counted
from nodekit.model.job import JobRequest
from nodekit.model.limits import ClientLimits

FULL_RETRY_SECONDS = 30
STORED_RETRY_SECONDS = 60


class DiskQuota:
    """The room that groups have on the disk of the store. A store that is on none has no limits."""

    def __init__(self, store: JobStore) -> None:
        self._store: Any = store
        self._on_disk = hasattr(store, "stored_bytes")
        self._arriving: dict[GroupId, int] = {}
        """Bytes of requests that are about to be stored, by group."""

    def full(self) -> str:
        """Return why the store should get no new jobs, for operators. Empty if it may get some."""
        return str(self._store.full()) if self._on_disk else ""

    async def room(self, requests: Sequence[tuple[JobRequest, ClientLimits]], *, again: bool) -> "StoredRoom":
        """Return the room for these requests, each with the limits of its client.

        A request that is made `again` brings no data: it refers to those of the old job.
        """
        most: dict[GroupId, int] = {}
        if self._on_disk:
            for request, limits in requests:
                if (limit := limits.max_stored_bytes) is not None:
                    most[request.in_group] = min(limit, most.get(request.in_group, limit))
        stored: Mapping[GroupId, int] = await self._store.stored_bytes(list(most)) if most else {}
        return StoredRoom(self._arriving, most, stored, again=again)


class StoredRoom:
    """The room for some requests. What they take counts for other requests, until `leave`."""

    __slots__ = ("_again", "_arriving", "_most", "_stored", "_taken")

    def __init__(
        self, arriving: dict[GroupId, int], most: Mapping[GroupId, int], stored: Mapping[GroupId, int], *, again: bool
    ) -> None:
        self._arriving, self._most, self._stored, self._again = arriving, most, stored, again
        self._taken: dict[GroupId, int] = {}

    def objection(self, request: JobRequest) -> Unavailable | None:
        """Return the objection to a request for which there is no room."""
        if not self._most or (most := self._most.get(request.in_group)) is None:
            return None
        stored = self._stored.get(request.in_group, 0) + self._arriving.get(request.in_group, 0)
        if stored < most and stored + self._bytes(request) <= most:
            return None
        there = counted(stored, "byte", "is", "are")
        text = f"{there} stored for you, of at most {most}; wait until jobs of yours are deleted"
        return TooMuchStored(text, retry_after_seconds=STORED_RETRY_SECONDS)

    def take(self, request: JobRequest) -> None:
        """Take the room of a request that was admitted."""
        if self._most and (group := request.in_group) in self._most:
            size = self._bytes(request)
            self._taken[group] = self._taken.get(group, 0) + size
            self._arriving[group] = self._arriving.get(group, 0) + size

    def leave(self) -> None:
        """Give the room back: the store counts what was stored, or nothing was."""
        for group, size in self._taken.items():
            self._arriving[group] -= size
            if not self._arriving[group]:
                del self._arriving[group]
        self._taken = {}

    def _bytes(self, request: JobRequest) -> int:
        return 0 if self._again else len(memoryview(request.data))
