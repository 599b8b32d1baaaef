"""Deadlines by job; removed entries are purged lazily. Pure: the caller passes the time."""

from heapq import heapify, heappop, heappush
from itertools import count

from nodekit.model.container import JobId

_SLACK = 1024
"""Number of dropped entries that is always tolerated."""


class Expiries:
    """Deadlines by job; each job has at most one."""

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
        """Return the time to look again, at the latest when the next entry is due. Return None if none are left."""
        return self._heap[0][0] if self._heap else None

    def pop(self, now: float) -> JobId | None:
        """Remove and return a job that is due, or return None."""
        while self._heap and self._heap[0][0] <= now:
            entry = heappop(self._heap)
            if self._holds(entry):
                del self._current[entry[2]]
                return entry[2]
        return None

    def _holds(self, entry: tuple[float, int, JobId]) -> bool:
        return self._current.get(entry[2]) == entry[1]
