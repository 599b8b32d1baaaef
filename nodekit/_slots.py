"""How many steps may run at once, in all and in each container. Pure."""

from collections import Counter
from collections.abc import Mapping, Set

from nodekit.container import Container, ContainerId


class Slots:
    """Slots of the node, and of the containers that limit themselves."""

    def __init__(self, containers: Mapping[ContainerId, Container], concurrency: int) -> None:
        self.free = concurrency
        self._containers = containers
        self._limits = {id: c.concurrency for id, c in containers.items() if c.concurrency is not None}
        self._in_use: Counter[ContainerId] = Counter()
        self._running: Set[ContainerId] = frozenset()
        self._open: frozenset[ContainerId] | None = None

    @property
    def open(self) -> frozenset[ContainerId]:
        """The containers that can take a step now: they run (or fail at once when they do not) and have a free slot."""
        if self._open is None:
            self._open = frozenset(id for id in self._containers if self._takes(id))
        return self._open

    @property
    def at_most(self) -> int:
        """How many jobs fit, even if all of them were due in the open container with the fewest free slots."""
        return min([self.free, *(limit - self._in_use[id] for id, limit in self._limits.items() if id in self.open)])

    def set_running(self, running: Set[ContainerId]) -> None:
        self._running, self._open = running, None

    def take(self, id: ContainerId | None) -> bool:
        """Hold a slot of a container; False where there is none."""
        if id not in self.open:
            return False
        if id in self._limits:
            self._in_use[id] += 1
            self._open = None
        return True

    def give_back(self, id: ContainerId | None) -> None:
        if id in self._limits:
            self._in_use[id] -= 1
            self._open = None

    def _takes(self, id: ContainerId) -> bool:
        if id in self._limits and self._in_use[id] >= self._limits[id]:
            return False
        return id in self._running or self._containers[id].when_down == "fail"
