"""Clusters that break promises on purpose. Processes that share seeds import them from here."""

import anyio

from nodekit import NodekitError
from nodekit.testing import make_table
from nodekit.testing.simulation import Cluster, Fault, Freeze, Kill, Machine, PromiseBroken, Size
from nodekit.testing.simulation.loop import SimulationFailed

SMALL = Size(nodes=2, clients=2, jobs=3, faults=3, span_seconds=2.0, settle_seconds=10.0, poison=0.0)


class Quick(Cluster):
    """A cluster that breaks a promise by a rule, without running. It counts its runs."""

    runs = 0

    def run(self) -> Cluster:
        type(self).runs += 1
        if (error := self.error()) is not None:
            raise error
        return self

    def error(self) -> NodekitError | None:
        return None

    def has(self, kind: type[Fault]) -> bool:
        return any(isinstance(fault, kind) for fault in self.faults)


class Sound(Quick):
    """Keeps every promise."""


class Touchy(Quick):
    """Breaks a promise if one thing is killed and another one frozen, while there are two certain jobs."""

    def error(self) -> NodekitError | None:
        if self.has(Kill) and self.has(Freeze) and {"job-3", "job-11"} <= {*self.jobs}:
            return PromiseBroken("toys are kept", f"{len(self.faults)} faults and\n{len(self.jobs)} jobs were too much")
        return None


class Stumbling(Quick):
    """Breaks one promise as a whole, and others if anything is left out."""

    def error(self) -> NodekitError | None:
        whole = type(self)(self.world.seed)
        if (self.faults, self.jobs) == (whole.faults, whole.jobs):
            return PromiseBroken("toys are kept", "on the whole")
        return PromiseBroken("toys are shared", "in part") if self.faults else SimulationFailed("an error of its own")


class Nest:
    class Touchy(Touchy):
        """The same, as a class inside of another."""


class Odd(Fault, frozen=True):
    """A fault of this module."""

    text: str = "it's odd"

    def begin(self, cluster: Cluster) -> None:
        cluster.world.note(self.machine, self.text)

    def end(self, cluster: Cluster) -> None:
        cluster.machine(self.machine).kill()
        cluster.start(self.machine)


class Forgetful(Cluster):
    """A cluster whose engine forgets everything when it is killed."""

    size = SMALL

    async def serve(self, machine: Machine) -> None:
        machine.disk["jobs"] = make_table()
        await super().serve(machine)


class Reaching(Cluster):
    """A cluster whose engine uses a thread."""

    size = SMALL

    async def serve(self, machine: Machine) -> None:
        await anyio.to_thread.run_sync(print)
