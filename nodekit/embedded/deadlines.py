"""What runs out when. Pure: the caller's clock; what is dropped costs nothing until it is due, and not for ever."""

from heapq import heapify, heappop, heappush
from itertools import count

from nodekit.model.container import JobId

_SLACK = 1024
"""Dropped entries that are always tolerated."""


class Expiries:
    """Times by job; each job has at most one."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, JobId]] = []
        self._current: dict[JobId, int] = {}
        self._serials = count()

    def set(self, id: JobId, at: float) -> None:
        serial = self._current[id] = next(self._serials)
        heappush(self._heap, (at, serial, id))
        if len(self._heap) > 2 * len(self._current) + _SLACK:
            self._heap = [entry for entry in self._heap if self._holds(entry)]
            heapify(self._heap)

    def drop(self, id: JobId) -> None:
        self._current.pop(id, None)

    def next_at(self) -> float | None:
        """When to look again: no later than the next one is due. None while nothing was ever set, or all is over."""
        return self._heap[0][0] if self._heap else None

    def pop(self, now: float) -> JobId | None:
        """One that is due, if there is one; it is no longer here."""
        while self._heap and self._heap[0][0] <= now:
            entry = heappop(self._heap)
            if self._holds(entry):
                del self._current[entry[2]]
                return entry[2]
        return None

    def _holds(self, entry: tuple[float, int, JobId]) -> bool:
        return self._current.get(entry[2]) == entry[1]
