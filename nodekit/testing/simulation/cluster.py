"""A simulated cluster: nodes on a store, its engine, clients, faults, and the check of what was promised."""

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from traceback import format_exception
from typing import cast

import anyio

from nodekit import (
    ContainerId,
    Event,
    JobFinished,
    JobId,
    Node,
    NodekitError,
    SharedStore,
    StepFinished,
)
from nodekit.concurrency.signal import Signal
from nodekit.testing.builders.components import make_table
from nodekit.testing.shared_store.engine import Engine
from nodekit.testing.shared_store.remote import SharedServerStore
from nodekit.testing.shared_store.server import Server
from nodekit.testing.simulation.clients import Clients
from nodekit.testing.simulation.containers import Call, Containers, SimulatedRunner
from nodekit.testing.simulation.disk import Disk
from nodekit.testing.simulation.faults import ENGINE, Fault
from nodekit.testing.simulation.ledger import Ledger, Outage, PromiseBroken
from nodekit.testing.simulation.loop import SimulationFailed
from nodekit.testing.simulation.plan import Size, draw_plan
from nodekit.testing.simulation.progress import Progress
from nodekit.testing.simulation.world import Machine, World

START_SECONDS = 0.1
"""Time after which the nodes follow the engine, and clients the nodes."""
LOOK_SECONDS = 0.25
SKEW_SECONDS = 0.2
"""Largest error of the clocks of nodes, less than what they call a problem."""
HEALTHY_SECONDS = 60.0
"""Time in which nodes forget the trouble that they had."""


class _Observer:
    """A plugin of each node, which notes what the node says."""

    def __init__(self, cluster: "Cluster", node: str) -> None:
        self._cluster, self._node = cluster, node

    def nodekit_observe(self, event: Event) -> None:
        ledger, note = self._cluster.ledger, self._cluster.world.note
        if isinstance(event, StepFinished):
            note(self._node, f"stored step {event.index} of {event.job.id[-6:]}")
            self._cluster.check(lambda: ledger.step_finished(event.job, event.index))
        elif isinstance(event, JobFinished):
            note(self._node, f"{event.job.id[-6:]} ended: {event.job.status}")
            self._cluster.check(lambda: ledger.job_finished(event.job))


class Cluster:
    """One run of a cluster. To simulate your own store, nodes or plugins, override `serve`, `store` and `make_node`.

    Everything follows from `seed`. `faults` replaces the faults that the seed gives; `order` chooses another order of
    the tasks that are ready.
    """

    size = Size()

    def __init__(
        self,
        seed: int,
        *,
        faults: Sequence[Fault] | None = None,
        jobs: Collection[str] | None = None,
        order: int = 0,
        size: Size | None = None,
        trace: bool = True,
    ) -> None:
        self.size = size or self.size
        step_seconds, most_steps = self.size.step_seconds, self.size.most_steps
        self.world = World(seed, order=order, step_seconds=step_seconds, most_steps=most_steps, trace=trace)
        loop, note = self.world.loop, self.world.note
        plan = draw_plan(self.world.chance, self.size)
        self.placed, self.limits = plan.placed, plan.limits
        self.nodes = tuple(plan.placed)
        self.faults = plan.faults if faults is None else tuple(faults)
        self.jobs = {key: planned for key, planned in plan.jobs.items() if jobs is None or key in jobs}
        self.ledger = Ledger(lambda: loop.now, self.size.lease_seconds, self.limits, self.jobs)
        self.containers = Containers(lambda: loop.now, note, plan.slots)
        self.progress = Progress(self.ledger, self.containers.up)
        self.containers.began = lambda call: self.check(lambda: self._call_began(call))
        self.containers.ended = lambda call: self.check(lambda: self._call_ended(call))
        self.containers.kills = self._kill_by_poison
        skew = self.world.chance("skew")
        for name in (ENGINE, *self.nodes):
            skew_seconds = 0.0 if name == ENGINE else (2 * skew.random() - 1) * SKEW_SECONDS
            self.world.machine(name).clock.skew_seconds = round(skew_seconds, 3)
        self.clients = Clients(self)
        self.whole_since = 0.0
        """Time since which nothing is out of order; infinite while something is."""
        self._disturbances = 0
        self._lasting: Counter[tuple[type[Fault], str]] = Counter()
        self._running: dict[str, Node] = {}
        self._leave: dict[str, Signal] = {}
        self._lives = dict.fromkeys((ENGINE, *self.nodes), 0)
        self._broken: NodekitError | None = None
        self._over = False

    # -- to override --------------------------------------------------------------------------------

    async def serve(self, machine: Machine) -> None:
        """Run the engine of the store, in its process. What must survive the process is kept in `machine.disk`."""
        engine = self.make_engine(machine)
        async with engine.store, anyio.create_task_group() as tasks:
            tasks.start_soon(engine.run)
            await machine.listen(Server(engine, tasks).serve)

    def make_engine(self, machine: Machine) -> Engine:
        """Return an engine of the kit's shared store, on the machine's disk."""
        disk = Disk(machine.disk.setdefault("jobs", make_table()), machine)
        return Engine(disk, self.size.lease_seconds, clock=machine.clock, random=machine.random)

    def store(self, machine: Machine) -> SharedStore:
        """Return a store for a node on a machine, which reaches the engine over the simulated network."""
        return SharedServerStore(
            ENGINE,
            0,
            clock=machine.clock,
            connect=lambda: machine.connect(ENGINE),
            connect_seconds=self.size.lease_seconds,
        )

    def make_node(self, machine: Machine, runner: SimulatedRunner, observer: object) -> Node:
        """Return a node. It needs the runner, the observer among its plugins, and the machine's clock and chance."""
        return Node(
            store=self.store(machine),
            runners=[runner],
            plugins=[observer],
            name=machine.name,
            limits=self.limits,
            clock=machine.clock,
            random=machine.random,
        )

    # -- the machines -------------------------------------------------------------------------------

    def machine(self, name: str) -> Machine:
        return self.world.machines[name]

    def node(self, name: str) -> Node:
        """Return the running node of a machine. Raise `OSError` if there is none."""
        if name not in self._running:
            raise ConnectionRefusedError(f"{name} is starting")
        return self._running[name]

    def start(self, name: str) -> None:
        """Start the process of a machine, if it does not run. One that is about to end is followed by another."""
        machine = self.machine(name)
        machine.start(lambda: self.serve(machine) if name == ENGINE else self._live(machine))

    def stop(self, name: str) -> None:
        """Ask the node of a machine to end."""
        if name in self._leave:
            self.machine(name).ends()
            self._leave[name].set()

    async def _live(self, machine: Machine) -> None:
        name = machine.name
        self._lives[name] += 1
        life = f"{name}#{self._lives[name]}"
        runner = self.containers.runner(name, life, self.placed[name], concurrency=self.limits.concurrency)
        node = self.make_node(machine, runner, _Observer(self, life))
        leave = self._leave[name] = Signal()
        self._running.pop(name, None)
        try:
            async with node:
                self._running[name] = node
                self.progress.node_started(name, life, runner.containers, self.limits.concurrency)
                await leave.wait()
                self.progress.node_ended(life)
        finally:
            self.ledger.dead.add(life)
            self.progress.node_ended(life)
            if self._running.get(name) is node:
                del self._running[name]

    # -- what happens -------------------------------------------------------------------------------

    def run(self) -> "Cluster":
        """Run the cluster to its end. Raise `PromiseBroken` or `SimulationFailed`."""
        try:
            self.world.run(self._run)
        except SimulationFailed as error:
            if not isinstance(self._broken, PromiseBroken):
                raise
            raise self._broken from error
        if self._broken is not None:
            raise self._broken
        return self

    async def _run(self) -> None:
        self.start(ENGINE)
        await anyio.sleep(START_SECONDS)
        for name in self.nodes:
            self.start(name)
        await anyio.sleep(START_SECONDS)
        async with anyio.create_task_group() as tasks:
            for fault in self.faults:
                tasks.start_soon(self._happen, fault)
            clients = self.machine("clients")
            clients.start(self._use)
            await self._until_settled()
            tasks.cancel_scope.cancel()
        if self._broken is None:
            await self._checked(self._check_end)
        self._over = True

    def _call_began(self, call: Call) -> None:
        self.ledger.call_began(call)
        planned = self.jobs[call.key]
        self.progress.call_began(call, planned, self.whole_since)
        self.world.loop.after(self.ledger.abort_seconds, self.check, partial(self.ledger.check_alone, call))

    def _call_ended(self, call: Call) -> None:
        self.progress.call_ended(call)
        self.ledger.call_ended(call)

    async def _use(self) -> None:
        async def read() -> None:
            await self._checked(self.clients.read_ends)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await self._checked(lambda: self.clients.run([*self.jobs.values()]))
            await anyio.sleep_forever()

    async def _happen(self, fault: Fault) -> None:
        await anyio.sleep(max(0.0, fault.at - self.world.loop.now))
        self.world.note(fault.machine, f"fault: {fault}")
        outage = self._disturb(fault) if fault.disturbs else None
        fault.begin(self)
        kind = type(fault), fault.machine
        self._lasting[kind] += 1
        await anyio.sleep(fault.seconds)
        self._lasting[kind] -= 1
        if fault.adds_up or not self._lasting[kind]:
            fault.end(self)
        if fault.disturbs:
            self._calm(outage)
        self.world.note(fault.machine, f"over: {type(fault).__name__}")

    def _disturb(self, fault: Fault) -> Outage | None:
        self._disturbances += 1
        self.whole_since = float("inf")
        return self.ledger.out(fault.machine, at_once=fault.at_once, stops=fault.stops) if fault.interrupts else None

    def _calm(self, outage: Outage | None) -> None:
        if outage is not None:
            outage.until = self.world.loop.now
        self._disturbances -= 1
        if not self._disturbances:
            self.whole_since = self.world.loop.now + 2 * self.size.lease_seconds  # by then all are connected again

    def _kill_by_poison(self, machine: str) -> None:
        """End a process, and start it again a while later: the containers of a poison job do this."""
        outage = self.ledger.out(machine, at_once=True)
        self._disturbances += 1
        self.whole_since = float("inf")
        self.machine(machine).kill()

        def again() -> None:
            if not self._over:  # nothing starts once the simulation is over
                self._calm(outage)
                self.start(machine)

        self.world.loop.after(self.size.lease_seconds / 2, again)

    # -- checks -------------------------------------------------------------------------------------

    def check(self, check: Callable[[], object]) -> None:
        """Make a check that raises `PromiseBroken`. The first one that does ends the run."""
        if self._over:
            return
        try:
            check()
        except PromiseBroken as error:
            self._break(error)

    async def _checked(self, work: Callable[[], Awaitable[object]]) -> None:
        """Do what clients do. What it raises ends the run."""
        try:
            await work()
        except Exception as error:
            while isinstance(error, ExceptionGroup):
                error = cast("ExceptionGroup[Exception]", error).exceptions[0]
            if not isinstance(error, PromiseBroken | SimulationFailed):
                text = "".join(format_exception(error))
                error = SimulationFailed(f"the clients failed: {text}")
            self._break(error)

    def _break(self, error: NodekitError) -> None:
        if self._broken is None:
            self._broken = error
            self.world.note("check", str(error))

    async def _until_settled(self) -> None:
        last = (
            max([self.size.span_seconds, *(fault.at + fault.seconds for fault in self.faults)]) + 3 * START_SECONDS
        )  # a fault may begin late
        deadline = last + self.size.settle_seconds
        loop = self.world.loop
        while self._broken is None and (self.clients.unanswered or loop.now < last):
            if loop.now > deadline and self.whole_since < loop.now - self.size.settle_seconds:
                self._break(self._stuck())
            self.check(lambda: self.progress.check_slots(self._due(), self.whole_since))
            await anyio.sleep(LOOK_SECONDS)

    def _due(self) -> dict[JobId, ContainerId]:
        """Return the containers that accepted jobs wait for, as far as clients can know."""
        due: dict[JobId, ContainerId] = {}
        for planned in self.jobs.values():
            id = self.ledger.keys.get(planned.key)
            if id is not None and self.ledger.jobs[id].ended is None and id not in self.ledger.ends:
                done = sum((id, index) in self.ledger.stored for index in range(len(planned.containers)))
                if done < len(planned.containers) and id not in self.ledger.cancelled:
                    due[id] = planned.containers[done]
        return due

    def _stuck(self) -> PromiseBroken:
        ledger, late = self.ledger, list[str]()
        for planned in self.jobs.values():
            id = ledger.keys.get(planned.key)
            if id is None:
                late.append(f"{planned.key} was not accepted")
            elif ledger.jobs[id].ended is None:
                late.append(f"{planned.key} ({id}) is not finished, {ledger.jobs[id].steps} of its steps are")
        text = "; ".join(late) or "a client still waits for a job that has ended"
        return PromiseBroken("every job ends", f"{self.size.settle_seconds:g} s after the last fault: {text}")

    async def _check_end(self) -> None:
        """Check the whole once more, now that nothing happens any more."""
        for name in self.nodes:
            self.start(name)
        await anyio.sleep(2 * self.size.lease_seconds)
        ids = [*self.ledger.keys.values()]
        for name in self.nodes:
            await self._check_node(name, ids)
        await anyio.sleep(3.0)
        if missed := set(ids) - set(self.clients.read):
            raise PromiseBroken("a reader of ends misses none", f"{sorted(missed)} were not read")
        if unknown := [id for id in self.clients.read if id not in set(ids)]:
            raise PromiseBroken("one key, one job", f"{unknown} finished, and nobody asked for them")

    async def _check_node(self, name: str, ids: Sequence[JobId]) -> None:
        ask = partial(self.machine("clients").ask, self.machine(name))
        node = self.node(name)
        jobs = {job.id: job for job in await ask(partial(node.fetch, ids))}
        for id in ids:
            if id not in jobs:
                self.ledger.missing(id)
            else:
                self.ledger.answered(jobs[id], self.ledger.asked(id))
                self.ledger.check_outcome(jobs[id])
        pending = await ask(partial(node.pending, [f"client-{number}" for number in range(self.size.clients)]))
        if pending.total or any(pending.groups.values()) or node.in_flight:
            counts = f"{pending.total} unfinished jobs, {dict(pending.groups)}, and {node.in_flight} in flight"
            raise PromiseBroken("counts are right", f"{name} counts {counts}, and all have ended")
        live = sorted(member.announcement.name for member in await ask(node.members) if member.live)
        if live != sorted(self.nodes):
            raise PromiseBroken("the live are known", f"{name} sees {live}")
        with anyio.move_on_after(HEALTHY_SECONDS) as limit:
            while reasons := (await ask(node.health)).reasons:  # noqa: ASYNC110
                await anyio.sleep(HEALTHY_SECONDS / 10)
        if limit.cancelled_caught:
            raise PromiseBroken("a whole cluster is healthy", f"{name} says: {'; '.join(reasons)}")
