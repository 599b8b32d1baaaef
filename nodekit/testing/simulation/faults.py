"""Faults that happen to a simulated cluster, and schedules of them."""

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, ClassVar

import msgspec

if TYPE_CHECKING:
    from nodekit.testing.simulation.cluster import Cluster

ENGINE = "engine"
"""Name of the machine of the store's engine."""


class Fault(msgspec.Struct, frozen=True):
    """Something that happens to a machine: it begins `at` a time, in seconds, and is over after `seconds`.

    Subclass it for a fault of your own, and override `begin` and `end`. Attributes of the class say what it may cost:

    - `interrupts`: True if the nodes on the machine may lose their claims, once it lasts for a good part of a lease.
    - `at_once`: True if they may lose them, however short it is.
    - `stops`: True if the code on the machine does not run meanwhile.
    - `adds_up`: True if each of several at the same time has to end. Otherwise only the last one of a machine does.
    """

    machine: str
    at: float
    seconds: float = 1.0

    interrupts: ClassVar[bool] = True
    at_once: ClassVar[bool] = False
    stops: ClassVar[bool] = False
    adds_up: ClassVar[bool] = False

    @property
    def disturbs(self) -> bool:
        """True if it may hold up the cluster: jobs may wait longer than usual, or be begun out of turn."""
        return True

    def begin(self, cluster: "Cluster") -> None:
        """Let it happen."""
        raise NotImplementedError

    def end(self, cluster: "Cluster") -> None:
        """Let it be over."""


class Kill(Fault, frozen=True):
    """The process is killed, as by SIGKILL, and started again afterwards."""

    at_once: ClassVar[bool] = True

    def begin(self, cluster: "Cluster") -> None:
        cluster.machine(self.machine).kill()

    def end(self, cluster: "Cluster") -> None:
        cluster.start(self.machine)


class Restart(Fault, frozen=True):
    """The process is asked to end, as by SIGTERM, and started again afterwards."""

    at_once: ClassVar[bool] = True

    def begin(self, cluster: "Cluster") -> None:
        cluster.stop(self.machine)

    def end(self, cluster: "Cluster") -> None:
        cluster.start(self.machine)


class Freeze(Fault, frozen=True):
    """The process stands still and goes on later, as after SIGSTOP or on a machine that is paused."""

    stops: ClassVar[bool] = True

    def begin(self, cluster: "Cluster") -> None:
        cluster.machine(self.machine).freeze()

    def end(self, cluster: "Cluster") -> None:
        cluster.machine(self.machine).thaw()


class Cut(Fault, frozen=True):
    """The link between a node and the engine is cut; clients still reach the node. Nothing that was sent is lost."""

    def begin(self, cluster: "Cluster") -> None:
        cluster.world.network.cut(self.machine, ENGINE)

    def end(self, cluster: "Cluster") -> None:
        cluster.world.network.heal(self.machine, ENGINE)


class Slow(Fault, frozen=True):
    """The link between a node and the engine is slow: each message takes `latency_seconds` more."""

    latency_seconds: float = 0.2

    def begin(self, cluster: "Cluster") -> None:
        cluster.world.network.slow(self.machine, ENGINE, self.latency_seconds)

    def end(self, cluster: "Cluster") -> None:
        cluster.world.network.slow(self.machine, ENGINE, 0.0)


class Reset(Fault, frozen=True):
    """The connections between a node and the engine break. What is on its way is lost: questions and answers."""

    interrupts: ClassVar[bool] = False

    def begin(self, cluster: "Cluster") -> None:
        cluster.world.network.reset(self.machine, ENGINE)


class Jump(Fault, frozen=True):
    """The wall clock of a machine is set wrong, by `skew_seconds`, and right again afterwards."""

    skew_seconds: float = 3600.0
    adds_up: ClassVar[bool] = True
    interrupts: ClassVar[bool] = False

    @property
    def disturbs(self) -> bool:
        return self.machine == ENGINE  # all else follows the engine's clock

    def begin(self, cluster: "Cluster") -> None:
        cluster.machine(self.machine).clock.skew_seconds += self.skew_seconds

    def end(self, cluster: "Cluster") -> None:
        cluster.machine(self.machine).clock.skew_seconds -= self.skew_seconds


class ReadOnly(Fault, frozen=True):
    """The engine's disk refuses to write."""

    interrupts: ClassVar[bool] = False

    def begin(self, cluster: "Cluster") -> None:
        cluster.machine(self.machine).disk["read-only"] = True

    def end(self, cluster: "Cluster") -> None:
        cluster.machine(self.machine).disk["read-only"] = False


class Down(Fault, frozen=True):
    """A container is down on a node."""

    container: str = "a"
    adds_up: ClassVar[bool] = True  # of other containers
    interrupts: ClassVar[bool] = False

    def begin(self, cluster: "Cluster") -> None:
        cluster.containers.take_down(self.machine, self.container)

    def end(self, cluster: "Cluster") -> None:
        cluster.containers.bring_up(self.machine, self.container)


def draw_faults(
    random: Random, nodes: Sequence[str], containers: Sequence[str], *, span: float, lease: float, most: int
) -> tuple[Fault, ...]:
    """Draw a schedule: up to `most` faults that begin within `span` seconds, in their order."""
    drawn: list[Fault] = []
    for _ in range(random.randrange(most + 1)):
        at = round(random.random() * span, 3)
        seconds = round((0.05 + random.random() ** 2 * 2.5) * lease, 3)
        node, chance = nodes[random.randrange(len(nodes))], random.random()
        drawn.append(_draw(random, chance, node, at, seconds, lease, containers))
    return tuple(sorted(drawn, key=lambda fault: fault.at))


def _draw(
    random: Random, chance: float, node: str, at: float, seconds: float, lease: float, containers: Sequence[str]
) -> Fault:
    brief = round(min(seconds, 0.4 * lease), 3)
    kinds: list[tuple[float, Fault]] = [
        (0.18, Kill(node, at, seconds)),
        (0.08, Restart(node, at, seconds)),
        (0.20, Freeze(node, at, seconds)),
        (0.15, Cut(node, at, seconds)),
        (0.12, Reset(node, at)),
        (0.05, Slow(node, at, seconds, round(random.random() * lease / 4, 3))),
        (0.06, Jump(node, at, seconds, round((random.random() - 0.5) * 7200, 3))),
        (0.05, Down(node, at, seconds, containers[random.randrange(len(containers))])),
        (0.05, Kill(ENGINE, at, brief)),
        (0.02, Freeze(ENGINE, at, brief)),
        (0.02, Jump(ENGINE, at, seconds, round((random.random() - 0.5) * 7200, 3))),
    ]
    for weight, fault in kinds:
        if (chance := chance - weight) < 0:
            return fault
    return ReadOnly(ENGINE, at, brief)
