"""Who is next. Pure: ids and no payloads, no clock, no I/O; costs no more with a million jobs queued.

By priority, then round-robin over clients, then oldest first. Jobs wait in lanes, one per container, priority and
client; a rotation orders the clients of one container and priority by whose turn was longest ago.
"""

from collections import OrderedDict
from collections.abc import Callable, Set
from heapq import heappop, heappush
from itertools import count
from typing import TypeAlias

from nodekit.container import ClientId, ContainerId, JobId
from nodekit.store import Unfinished

_Place: TypeAlias = tuple[JobId, int, Unfinished]
"""A job in the queue; the serial number, which no other place has, tells it from an earlier place of the same job."""


class Schedule:
    """The queue of one node."""

    def __init__(self) -> None:
        self._queued: dict[JobId, _Place] = {}
        self._delayed: list[tuple[float, _Place]] = []
        self._levels: dict[int, _Level] = {}
        self._serials = count()

    def __contains__(self, id: JobId) -> bool:
        return id in self._queued

    def __len__(self) -> int:
        return len(self._queued)

    def add(self, entry: Unfinished, *, due_at: float | None = None) -> None:
        """Queue a job, due now or at a time of the caller's clock."""
        place = self._queued[entry.id] = (entry.id, next(self._serials), entry)
        if due_at is None:
            self._level(entry.priority).push(place)
        else:
            heappush(self._delayed, (due_at, place))

    def remove(self, id: JobId) -> Unfinished | None:
        """Take one job out, wherever it waits; its place in a lane is dropped when it is reached."""
        place = self._queued.pop(id, None)
        return place and place[2]

    def take(self, containers: Set[ContainerId], limit: int, *, now: float) -> list[Unfinished]:
        """Up to `limit` jobs that are due in `containers`, in order; they are no longer queued."""
        self._wake(now)
        taken: list[Unfinished] = []
        for priority in sorted(self._levels):
            level = self._levels[priority]
            while len(taken) < limit and (place := level.pop(containers, self._holds)):
                taken.append(self._queued.pop(place[0])[2])
            if level.empty:
                del self._levels[priority]
        return taken

    def next_due_at(self) -> float | None:
        """When the next delayed job is due, on the caller's clock."""
        while self._delayed and not self._holds(self._delayed[0][1]):
            heappop(self._delayed)
        return self._delayed[0][0] if self._delayed else None

    def _wake(self, now: float) -> None:
        while (due_at := self.next_due_at()) is not None and due_at <= now:
            place = heappop(self._delayed)[1]
            self._level(place[2].priority).push(place)

    def _holds(self, place: "_Place") -> bool:
        return self._queued.get(place[0]) is place

    def _level(self, priority: int) -> "_Level":
        if priority not in self._levels:
            self._levels[priority] = _Level()
        return self._levels[priority]


class _Level:
    """All lanes of one priority."""

    def __init__(self) -> None:
        self._rotations: dict[ContainerId, OrderedDict[ClientId, list[_Place]]] = {}
        self._turns: dict[ClientId, int] = {}
        self._lanes: dict[ClientId, set[ContainerId]] = {}
        self._count = count()

    @property
    def empty(self) -> bool:
        return not self._rotations

    def push(self, place: _Place) -> None:
        entry = place[2]
        rotation = self._rotations.setdefault(entry.due, OrderedDict())
        if entry.client not in rotation:
            rotation[entry.client] = []
            self._lanes.setdefault(entry.client, set()).add(entry.due)
            self._turns.setdefault(entry.client, next(self._count))
        heappush(rotation[entry.client], place)

    def pop(self, containers: Set[ContainerId], holds: Callable[[_Place], bool]) -> _Place | None:
        """Clients take turns in each container; of those next in theirs, the one that was served longest ago.

        A turn in one container costs none in another: a client that is served often in one would starve in others.
        """
        while heads := [(self._turns[next(iter(r))], c) for c, r in self._rotations.items() if c in containers]:
            container = min(heads)[1]
            client, lane = next(iter(self._rotations[container].items()))
            place = heappop(lane)
            if not lane:
                self._drop(container, client)
            if holds(place):
                if lane:
                    self._rotations[container].move_to_end(client)
                if client in self._turns:
                    self._turns[client] = next(self._count)
                return place
        return None

    def _drop(self, container: ContainerId, client: ClientId) -> None:
        del self._rotations[container][client]
        if not self._rotations[container]:
            del self._rotations[container]
        self._lanes[client].discard(container)
        if not self._lanes[client]:
            del self._lanes[client], self._turns[client]
