"""The order of queued jobs. Pure: ids without payloads, no clock, no I/O. The cost does not grow with queue length.

Jobs are ordered by priority, then round-robin over groups of clients, then oldest first. They wait in lanes, one per
container, pipeline, priority and group; suspects have lanes of their own. A rotation orders the groups of one
container, pipeline and priority by turn. Below, such a pair of container and pipeline is called a container: most nodes
use one pipeline.

The promise, within one priority: a container never serves a group twice while another group, which it could have
served all that time, is not served at all. Every service takes a new number. A group's *turn* is the number of its
last service in any container, or of its arrival. Its *place* in a container is the number of its last service there, or
its turn at the time when its lane opened. So a place is never above a turn. Let C be the waiting group with the lowest
turn. The next job comes from the container in which C waits, and there from the group with the lowest place. That
place is at most C's turn, so the group that holds it was not served there since C was last served.

A claim may have no room for further jobs of some groups. It passes them over, as if they did not wait.
"""

from collections.abc import Callable, Collection, Container, Mapping, Set
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import NamedTuple, TypeAlias

from nodekit.embedded.deadlines import Expiries
from nodekit.interfaces.store import ClaimRoom, Unfinished
from nodekit.model.container import ContainerId, GroupId, JobId

_SLACK = 64
"""Number of entries of departed groups that is always tolerated."""


class Wanted(NamedTuple):
    """The jobs that a claim asks for: those in these containers and pipelines. At most one of them is a suspect.

    - `pipelines`: None stands for all.
    - `room`: Number of jobs of each group; None sets no limit.
    """

    containers: Set[ContainerId]
    pipelines: Set[str] | None = None
    suspects: bool = True
    room: ClaimRoom | None = None


_Kind: TypeAlias = tuple[ContainerId, str, bool]
"""The jobs of a rotation: their container, their pipeline, and True if they are suspects."""


def _kind(entry: Unfinished) -> _Kind:
    return entry.due, entry.pipeline, entry.suspect


class Schedule:
    """The queue of one node."""

    def __init__(self) -> None:
        self._queued: dict[JobId, Unfinished] = {}
        self._delays: Expiries = Expiries()
        self._limits: Expiries = Expiries()
        self._levels: dict[int, _Level] = {}

    def __contains__(self, id: JobId) -> bool:
        return id in self._queued

    def __len__(self) -> int:
        return len(self._queued)

    def add(self, entry: Unfinished, *, due_at: float | None = None, expires_at: float | None = None) -> None:
        """Queue a job, due now or at a time of the caller's clock. Its time in the queue is over at `expires_at`."""
        self.remove(entry.id)
        self._queued[entry.id] = entry
        if due_at is None:
            self._level(entry.priority).push(entry)
        else:
            self._delays.set(entry.id, due_at)
        if expires_at is not None:
            self._limits.set(entry.id, expires_at)

    def remove(self, id: JobId) -> Unfinished | None:
        """Remove and return one job, wherever it waits."""
        entry = self._queued.pop(id, None)
        if entry is not None:
            self._delays.drop(id)
            self._limits.drop(id)
            if level := self._levels.get(entry.priority):
                level.drop(entry)
        return entry

    def take(self, wanted: Wanted, limit: int, *, now: float) -> list[Unfinished]:
        """Remove and return up to `limit` jobs that are due, in order."""
        self._wake(now)  # first: what is left of removed jobs would be due for ever
        taken: list[Unfinished] = []
        if not self._queued:
            return taken
        full = _FullGroups(wanted.room)
        for priority in sorted(self._levels):
            level = self._levels[priority]
            while self._queued and len(taken) < limit and (entry := level.pop(wanted, full.groups)):
                del self._queued[entry.id]
                self._limits.drop(entry.id)
                taken.append(entry)
                full.take(entry.group)
                if entry.suspect:
                    wanted = wanted._replace(suspects=False)
        return taken

    def take_expired(self, limit: int, *, now: float) -> list[Unfinished]:
        """Remove and return up to `limit` jobs whose time in the queue is over."""
        taken: list[Unfinished] = []
        while len(taken) < limit and (id := self._limits.pop(now)):
            if entry := self.remove(id):
                taken.append(entry)
        return taken

    def count(self, since: Callable[[JobId], float]) -> Mapping[ContainerId, tuple[int, float]]:
        """Return the number of queued jobs by container, and the earliest of their times. It looks at each job."""
        counts: dict[ContainerId, tuple[int, float]] = {}
        for id, entry in self._queued.items():
            due_since = since(id)
            jobs, earliest = counts.get(entry.due, (0, due_since))
            counts[entry.due] = jobs + 1, min(earliest, due_since)
        return counts

    def next_due_at(self) -> float | None:
        """Return the time to look again for delayed jobs that are due, on the caller's clock."""
        return self._delays.next_at()

    def next_expiry_at(self) -> float | None:
        """Return the time to look again for jobs whose time is over, on the caller's clock."""
        return self._limits.next_at()

    def _wake(self, now: float) -> None:
        while id := self._delays.pop(now):
            entry = self._queued[id]
            self._level(entry.priority).push(entry)

    def _level(self, priority: int) -> "_Level":
        if priority not in self._levels:
            self._levels[priority] = _Level()
        return self._levels[priority]


class _FullGroups:
    """The groups whose room is used up, while jobs are taken."""

    __slots__ = ("_room", "_taken", "groups")

    def __init__(self, room: ClaimRoom | None) -> None:
        self._room = room
        self._taken: dict[GroupId, int] = {}
        self.groups = {group for group, number in room.groups.items() if number < 1} if room else set[GroupId]()

    def take(self, group: GroupId) -> None:
        if self._room is not None:
            taken = self._taken[group] = self._taken.get(group, 0) + 1
            if taken >= self._room.of(group):
                self.groups.add(group)


class _Level:
    """All lanes of one priority."""

    def __init__(self) -> None:
        self._rotations: dict[_Kind, _Rotation] = {}
        self._turns: dict[GroupId, int] = {}
        self._lanes: dict[GroupId, set[_Kind]] = {}
        self._count = count()

    def push(self, entry: Unfinished) -> None:
        if entry.group not in self._turns:
            self._turns[entry.group] = next(self._count)
            self._lanes[entry.group] = set()
        kind = _kind(entry)
        rotation = self._rotations.get(kind)
        if rotation is None:
            rotation = self._rotations[kind] = _Rotation(self._turns)
        rotation.lane(entry.group).push(entry)
        self._lanes[entry.group].add(kind)

    def drop(self, entry: Unfinished) -> None:
        """Remove a job, if it is here."""
        kind = _kind(entry)
        rotation = self._rotations.get(kind)
        lane = rotation.lanes.get(entry.group) if rotation else None
        if lane is not None and lane.drop(entry.id) and not lane:
            self._close(kind, entry.group)

    def pop(self, wanted: Wanted, full: Set[GroupId]) -> Unfinished | None:
        """Take a job of the group with the lowest place, in the container where the group with the lowest turn waits.

        Groups take turns in each container. A turn in one container costs none in another; otherwise a group that is
        served often in one would starve in others. No container is passed over for long because of groups that wait in
        it too.
        """
        containers, pipelines, suspects, _ = wanted
        waiting = [
            (*first, kind)
            for kind, rotation in self._rotations.items()
            if kind[0] in containers and (pipelines is None or kind[1] in pipelines) and (suspects or not kind[2])
            if (first := rotation.longest_ago(full)) is not None
        ]
        if not waiting:
            return None
        kind = min(waiting)[-1]
        rotation, turn = self._rotations[kind], next(self._count)
        group = rotation.next_group(full)
        entry = rotation.lanes[group].pop()
        if rotation.lanes[group]:
            rotation.places[group] = turn
        else:
            self._close(kind, group)
        if group in self._turns:
            self._turns[group] = turn
        return entry

    def _close(self, kind: _Kind, group: GroupId) -> None:
        rotation = self._rotations[kind]
        rotation.close(group)
        if not rotation.lanes:
            del self._rotations[kind]
        self._lanes[group].discard(kind)
        if not self._lanes[group]:
            del self._lanes[group], self._turns[group]


class _Rotation:
    """The groups of one container, pipeline and priority, suspects apart, in the order of their turns."""

    def __init__(self, turns: Mapping[GroupId, int]) -> None:
        self.lanes: dict[GroupId, _Lane] = {}
        self.places: dict[GroupId, int] = {}
        self._turns = turns
        self._by_turn = _Ranking(turns)
        self._by_place = _Ranking(self.places)

    def lane(self, group: GroupId) -> "_Lane":
        """Return the lane of the group's jobs. A new lane opens at the place of the group's turn."""
        if group not in self.lanes:
            self.lanes[group] = _Lane()
            self.places[group] = self._turns[group]
            self._by_turn.add(group)
            self._by_place.add(group)
        return self.lanes[group]

    def close(self, group: GroupId) -> None:
        del self.lanes[group], self.places[group]
        self._by_turn.thin_out(self.lanes)
        self._by_place.thin_out(self.lanes)

    def longest_ago(self, full: Set[GroupId]) -> tuple[int, JobId] | None:
        """Return the lowest turn of the groups here that are not full, and that group's oldest job here."""
        group = self._by_turn.first(self.lanes, full)
        return None if group is None else (self._turns[group], self.lanes[group].oldest())

    def next_group(self, full: Set[GroupId]) -> GroupId:
        """Return the group with the lowest place. There must be one that is not full."""
        group = self._by_place.first(self.lanes, full)
        assert group is not None
        return group


class _Ranking:
    """Groups by numbers that only grow. Outdated entries are corrected when they reach the top."""

    __slots__ = ("_heap", "_numbers")

    def __init__(self, numbers: Mapping[GroupId, int]) -> None:
        self._numbers = numbers
        self._heap: list[tuple[int, GroupId]] = []

    def add(self, group: GroupId) -> None:
        heappush(self._heap, (self._numbers[group], group))

    def first(self, present: Container[GroupId], full: Set[GroupId]) -> GroupId | None:
        """Return the present group with the lowest number, but for full ones. Return None if there is none.

        It takes out the full groups that come first and puts them back: they are few, as each of them holds a large
        share of the slots, or has a limit of its own.
        """
        found: GroupId | None = None
        passed: list[tuple[int, GroupId]] = []
        while self._heap and found is None:
            number, group = self._heap[0]
            if group not in present:
                heappop(self._heap)
            elif number < self._numbers[group]:
                heapreplace(self._heap, (self._numbers[group], group))
            elif group in full:
                passed.append(heappop(self._heap))
            else:
                found = group
        for entry in passed:
            heappush(self._heap, entry)
        return found

    def thin_out(self, present: Collection[GroupId]) -> None:
        """Drop departed groups once they outnumber the present ones."""
        if len(self._heap) > 2 * len(present) + _SLACK:
            self._heap = [(self._numbers[group], group) for group in present]
            heapify(self._heap)


class _Lane:
    """Jobs of one group, priority and container, oldest first. A lane is true while it has any."""

    __slots__ = ("_entries", "_ids")

    def __init__(self) -> None:
        self._ids: list[JobId] = []  # a heap; an id that is not in `_entries` was dropped
        self._entries: dict[JobId, Unfinished] = {}

    def __bool__(self) -> bool:
        return bool(self._entries)

    def push(self, entry: Unfinished) -> None:
        self._entries[entry.id] = entry
        heappush(self._ids, entry.id)

    def drop(self, id: JobId) -> bool:
        """Return True if the job was here. Its heap entry stays for a while; such entries never outnumber jobs."""
        if self._entries.pop(id, None) is None:
            return False
        if len(self._ids) > 2 * len(self._entries):
            self._ids = list(self._entries)
            heapify(self._ids)
        return True

    def oldest(self) -> JobId:
        while self._ids[0] not in self._entries:
            heappop(self._ids)
        return self._ids[0]

    def pop(self) -> Unfinished:
        self.oldest()
        return self._entries.pop(heappop(self._ids))
