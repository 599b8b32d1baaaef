"""Limits on steps that run at once: in total, per container, and per pool of containers. Pure.

Streams hold at most half of the slots of a container or pool: the reader decides when such a slot is free again.
"""

from collections.abc import Collection, KeysView, Mapping, Sequence, Set

from nodekit.model.container import Container, ContainerId


class _Limit:
    """The number of free slots that these containers share, and how many of them are free for streams."""

    __slots__ = ("containers", "free", "free_for_streams")

    def __init__(self, containers: Collection[ContainerId], free: int) -> None:
        self.containers = containers
        self.free = free
        self.free_for_streams = max(1, free // 2)


class Slots:
    """The slots of the node, and of the containers and pools that are limited.

    Each entry of `pools` is a set of containers and the number of steps they may run together.
    """

    def __init__(
        self,
        containers: Mapping[ContainerId, Container],
        concurrency: int,
        pools: Sequence[tuple[Collection[ContainerId], int]] = (),
    ) -> None:
        self.free = concurrency
        self._containers = containers
        own = [_Limit([id], c.concurrency) for id, c in containers.items() if c.concurrency is not None]
        self._open: KeysView[ContainerId] | None = None
        self._all_limits: list[_Limit] = []
        self._limits: dict[ContainerId, list[_Limit]] = {id: [] for id in containers}
        for limit in [*own, *(_Limit(ids, at_once) for ids, at_once in pools)]:
            self._add(limit)
        self._running: Set[ContainerId] = frozenset()
        self._elsewhere: Set[ContainerId] = frozenset()

    def limit(self, ids: Collection[ContainerId], at_once: int) -> None:
        """Limit the number of steps that these containers run together at once."""
        self._add(_Limit(ids, at_once))

    @property
    def open(self) -> KeysView[ContainerId]:
        """Containers that can take a step now: they have a free slot, and run (or fail at once while they are down).

        They are in the order of the runners.
        """
        if self._open is None:
            self._open = {id: None for id in self._containers if self._takes(id)}.keys()
        return self._open

    @property
    def at_most(self) -> int:
        """Number of jobs that fit, even if all of them were due in the open container with the fewest free slots."""
        open, most = self.open, self.free
        for limit in self._all_limits:
            if limit.free < most and not open.isdisjoint(limit.containers):
                most = limit.free
        return most

    def set_running(self, running: Set[ContainerId]) -> None:
        self._running, self._open = running, None

    def set_elsewhere(self, elsewhere: Set[ContainerId]) -> None:
        """Set the containers that run on other nodes."""
        self._elsewhere, self._open = elsewhere, None

    def fails_at_once(self, id: ContainerId) -> bool:
        """Return True if jobs fail while the container is down (`when_down`), because no other node runs it."""
        return self._containers[id].when_down == "fail" and id not in self._elsewhere

    def take(self, id: ContainerId | None, *, stream: bool = False) -> bool:
        """Take a slot of a container. Return False if there is none."""
        if id is None or id not in self.open:
            return False
        if stream:
            if not all(limit.free_for_streams for limit in self._limits[id]):
                return False
            self._change_streams(id, -1)
        self._change(id, -1)
        return True

    def give_back(self, id: ContainerId | None, *, stream: bool = False) -> None:
        if id is not None:
            self._change(id, +1)
            if stream:
                self._change_streams(id, +1)

    def _add(self, limit: _Limit) -> None:
        self._all_limits.append(limit)
        self._open = None
        for id in limit.containers:
            self._limits[id].append(limit)

    def _change_streams(self, id: ContainerId, by: int) -> None:
        for limit in self._limits[id]:
            limit.free_for_streams += by

    def _change(self, id: ContainerId, by: int) -> None:
        for limit in self._limits[id]:
            was_full = not limit.free
            limit.free += by
            if was_full or not limit.free:
                self._open = None

    def _takes(self, id: ContainerId) -> bool:
        if not all(limit.free for limit in self._limits[id]):
            return False
        return id in self._running or self.fails_at_once(id)
