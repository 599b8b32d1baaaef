"""What runs out when. Pure: the caller's clock; what is dropped costs nothing until it is due, and not for ever."""

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_SLACK = 1024
"""Dropped entries that are always tolerated."""


class Expiries(Generic[K]):
    """Times by key; each key has at most one."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, K]] = []
        self._current: dict[K, int] = {}
        self._serials = count()

    def __len__(self) -> int:
        return len(self._current)

    def set(self, key: K, at: float) -> None:
        serial = self._current[key] = next(self._serials)
        heappush(self._heap, (at, serial, key))
        if len(self._heap) > 2 * len(self._current) + _SLACK:
            self._heap = [entry for entry in self._heap if self._holds(entry)]
            heapify(self._heap)

    def drop(self, key: K) -> None:
        self._current.pop(key, None)

    def next_at(self) -> float | None:
        """When the next one is due."""
        while self._heap and not self._holds(self._heap[0]):
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop(self, now: float) -> K | None:
        """One that is due, if there is one; it is no longer here."""
        if (at := self.next_at()) is None or at > now:
            return None
        key = heappop(self._heap)[2]
        del self._current[key]
        return key

    def _holds(self, entry: tuple[float, int, K]) -> bool:
        return self._current.get(entry[2]) == entry[1]
