"""A cluster of nodes in one process, on a clock of its own, where one seed decides everything that happens.

`simulate` runs a `Cluster` with many seeds. For one with which the cluster breaks a promise it finds the shortest
schedule of faults, and prints it as a test. Subclass `Cluster` to simulate a store, a node or plugins of your own::

    class MyCluster(Cluster):
        def make_node(self, machine, runner, observer):
            return Node(store=MyStore(machine.connect), runners=[runner], plugins=[observer, MyPlugin()], ...)

    def test_my_store_keeps_its_promises():
        simulate(MyCluster, range(50))

``python -m nodekit.testing.simulation`` does the same from the command line.
"""

from nodekit.testing.simulation.cluster import Cluster
from nodekit.testing.simulation.faults import (
    ENGINE,
    Cut,
    Down,
    Fault,
    Freeze,
    Jump,
    Kill,
    ReadOnly,
    Reset,
    Restart,
    Slow,
)
from nodekit.testing.simulation.ledger import PromiseBroken
from nodekit.testing.simulation.loop import SimulatedLoop, SimulationFailed
from nodekit.testing.simulation.network import Connection
from nodekit.testing.simulation.plan import Size
from nodekit.testing.simulation.search import Found, shortest, simulate
from nodekit.testing.simulation.world import Machine, MachineClock, World

__all__ = [
    "ENGINE",
    "Cluster",
    "Connection",
    "Cut",
    "Down",
    "Fault",
    "Found",
    "Freeze",
    "Jump",
    "Kill",
    "Machine",
    "MachineClock",
    "PromiseBroken",
    "ReadOnly",
    "Reset",
    "Restart",
    "SimulatedLoop",
    "SimulationFailed",
    "Size",
    "Slow",
    "World",
    "shortest",
    "simulate",
]
