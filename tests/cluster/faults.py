"""Faults of a cluster, and the times at which they begin. A seed decides both."""

import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import aiohttp
import anyio
import anyio.to_thread

from cluster.engines import Engine
from cluster.nodes import NodeProcess
from nodekit.testing import TcpProxy

CUTS = ("hang", "refuse", "half_open", "cut_answers")


@dataclass(frozen=True)
class Harm:
    """A time in which a node may lose its leases through no fault of its own.

    - `node`: Its name; None: every node.
    - `began_at`, `ended_at`: Unix times.
    """

    what: str
    node: str | None
    began_at: float
    ended_at: float

    def told(self, since: float) -> str:
        """Return it as text, with times that count from a Unix time."""
        return f"{self.what} {self.node or 'engine'} {self.began_at - since:.1f}-{self.ended_at - since:.1f} s"


@dataclass(frozen=True)
class Plan:
    """Victims of faults, and the times at which these begin.

    - `killed`, `frozen`, `cut`, `skewed`: Indices of nodes; the first three differ.
    - `cut_by`: Method of `TcpProxy`.
    - `starts`: Seconds from the beginning to each fault.
    """

    killed: int
    frozen: int
    cut: int
    skewed: int
    cut_by: str
    skew_seconds: float
    starts: Mapping[str, float]
    order: Sequence[str]

    @classmethod
    def of(cls, seed: int, seconds: float) -> "Plan":
        """Draw a plan whose faults all begin within so many seconds."""
        dice = Random(seed)
        killed, frozen, cut = dice.sample(range(3), 3)
        order = dice.sample(("kill", "freeze", "restart", "cut"), 4)
        gap = seconds / 4
        return cls(
            killed=killed,
            frozen=frozen,
            cut=cut,
            skewed=dice.randrange(3),
            cut_by=dice.choice(CUTS),
            skew_seconds=dice.choice((-2.0, 2.0)),
            starts={name: gap * (place + dice.random() * 0.8) for place, name in enumerate(order)},
            order=order,
        )

    def __str__(self) -> str:
        """Return the plan in a line, in the order in which the faults begin."""
        told = {
            "kill": f"kill node-{self.killed}",
            "freeze": f"freeze node-{self.frozen}",
            "restart": "kill the server",
            "cut": f"{self.cut_by} node-{self.cut}",
        }
        begun = ", ".join(f"{told[name]} at {self.starts[name]:.1f} s" for name in self.order)
        return f"{begun}; node-{self.skewed} is {self.skew_seconds:+g} s wrong"


class Faults:
    """Carries out a plan, and writes down when each node was harmed."""

    def __init__(
        self, plan: Plan, nodes: Sequence[NodeProcess], engine: Engine, proxy: TcpProxy, *, lease: float, cut: float
    ) -> None:
        self._plan, self._nodes, self._engine, self._proxy = plan, nodes, engine, proxy
        self._lease_seconds, self._cut_seconds = lease, cut
        self.harms: list[Harm] = []

    async def run(self) -> None:
        """Return when all faults are over."""
        acts: Mapping[str, Callable[[], Awaitable[None]]] = {
            "kill": self._kill,
            "freeze": self._freeze,
            "restart": self._restart,
            "cut": self._cut,
        }
        async with anyio.create_task_group() as tasks:
            for name, seconds in self._plan.starts.items():
                tasks.start_soon(self._at, seconds, acts[name])

    async def _at(self, seconds: float, act: Callable[[], Awaitable[None]]) -> None:
        await anyio.sleep(seconds)
        await act()

    def _note(self, what: str, node: NodeProcess | None, began_at: float) -> None:
        self.harms.append(Harm(what, node and node.name, began_at, time.time()))

    async def _kill(self) -> None:
        node, began_at = self._nodes[self._plan.killed], time.time()
        async with node.busy:
            node.harmed += 1
            await node.kill()
            await anyio.sleep(1.5 * self._lease_seconds)  # others take over meanwhile
            await node.start()
        self._note("kill", node, began_at)

    async def _freeze(self) -> None:
        node, began_at = self._nodes[self._plan.frozen], time.time()
        async with node.busy:
            node.harmed += 1
            node.signal(signal.SIGSTOP)
            try:
                await anyio.sleep(2 * self._lease_seconds)
            finally:
                node.signal(signal.SIGCONT)
        self._note("freeze", node, began_at)

    async def _restart(self) -> None:
        began_at = time.time()
        await anyio.to_thread.run_sync(self._engine.kill)
        await anyio.sleep(0.5)
        await anyio.to_thread.run_sync(self._engine.start)
        self._note("restart", None, began_at)

    async def _cut(self) -> None:
        node, began_at = self._nodes[self._plan.cut], time.time()
        act: Any = getattr(self._proxy, self._plan.cut_by)
        await anyio.to_thread.run_sync(act)
        await anyio.sleep(self._cut_seconds)
        await anyio.to_thread.run_sync(self._proxy.heal)
        self._note(self._plan.cut_by, node, began_at)


class RollingRestart:
    """Restarts the nodes one after the other, as an upgrade does. No lease ends by it."""

    def __init__(self, nodes: Sequence[NodeProcess], seconds: float) -> None:
        self._nodes, self._pause_seconds = nodes, seconds / (len(nodes) + 1)
        self.harms: list[Harm] = []
        self.codes: list[int] = []

    async def run(self) -> None:
        for node in self._nodes:
            await anyio.sleep(self._pause_seconds)
            self.codes.append(await node.stop())
            await node.start()


class Watch:
    """Notices when this machine, or the engine on it, is too busy for leases to be renewed, which is nobody's fault.

    `cut`: The node behind a proxy, if any. Whether the engine answers the others is what counts.
    """

    PAUSE_SECONDS = 0.05

    def __init__(self, nodes: Sequence[NodeProcess], lease_seconds: float, *, cut: NodeProcess | None = None) -> None:
        self._nodes, self._cut, self._late_seconds = nodes, cut, lease_seconds / 4
        self.harms: list[Harm] = []

    async def run(self) -> None:
        """Watch until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch_myself)
            for node in self._nodes:
                tasks.start_soon(self._watch, node, "/health/live")
                if node is not self._cut:
                    tasks.start_soon(self._watch, node, "/info")

    async def _watch_myself(self) -> None:
        while True:
            began_at = time.time()
            await anyio.sleep(self.PAUSE_SECONDS)
            if (ended_at := time.time()) - began_at > self._late_seconds:
                self.harms.append(Harm("too busy", None, began_at, ended_at))

    async def _watch(self, node: NodeProcess, path: str) -> None:
        """Ask a node repeatedly: if its event loop goes round, or for numbers that it reads from the engine."""
        while True:
            began_at, harmed = time.time(), -1 if node.busy.locked() else node.harmed
            try:
                await node.ask("GET", path, seconds=60)
            except (OSError, TimeoutError, aiohttp.ClientError):
                await anyio.sleep(0.1)
            is_late = (ended_at := time.time()) - began_at > self._late_seconds
            if is_late and node.harmed == harmed and not node.busy.locked():
                self.harms.append(Harm("too busy", None, began_at, ended_at))
            await anyio.sleep(0.1)
