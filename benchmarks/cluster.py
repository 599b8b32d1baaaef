"""The work of a cluster by the number of its nodes and jobs: what is counted, in a simulation without faults.

    python benchmarks/cluster.py [--nodes 10 50 200] [--jobs 100000] [--load 0.5] [--batch 10] [--lease 15] [--alone 20]

Real nodes and the engine of the kit's shared store run in one process, on a virtual clock. So the counts are the same
on any machine; only the processor time and the memory at the end are this machine's. Each number of nodes runs in a
process of its own, one after the other.

Every node has the container `a`, and every second one `b`. Half of the jobs run in `a`, the others in `a` and then in
`b`. A call takes half a second, and a node makes four at once. Clients of several groups submit batches to nodes at
random, and wait for the end of each batch at others. `--load` is the share of the cluster's slots that this keeps busy;
above 1, the jobs queue up. Before that, the cluster is looked at while it idles for a lease, and while some jobs of one
step (`--alone`) come one after the other, so that all nodes wait for each of them.

Nodes read each other, which grows with the square of their number and takes most of the time of a simulation. With
`--members 20`, each read gives 20 of them, and counts all: what else is counted stays the same.
"""

import argparse
import logging
import resource
import statistics
import time
from collections import Counter
from collections.abc import Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Literal

import anyio

from nodekit import Container, ContainerOutput, Job, JobRequest, JobStatus, Node, NodeLimits, Step, encode_payload
from nodekit.embedded.change_feed import ChangeFeed
from nodekit.embedded.fair_schedule import Schedule
from nodekit.testing.builders.components import make_table
from nodekit.testing.shared_store.engine import Engine
from nodekit.testing.shared_store.wire import encode
from nodekit.testing.simulation import ENGINE, Cluster, Size
from nodekit.testing.simulation.disk import Disk

GROUPS = 20
SLOTS = 4
CALL_SECONDS = 0.5
CALLS_OF_JOB = 1.5
AT_ONCE_SECONDS = 0.1
OF_NODES = ("renew", "announce", "nodes", "now")
"""Calls that nodes make without a job."""
DATA, OUTPUT = encode_payload({"text": "x" * 36}), encode_payload({"text": "x" * 70})


class CountedSchedule(Schedule):
    """The queue, which counts how often a claim looks into it."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.counts = counts

    def take(self, *args, **kwargs):
        self.counts["looks"] += 1
        return super().take(*args, **kwargs)

    def take_expired(self, *args, **kwargs):
        self.counts["looks for expired"] += 1
        return super().take_expired(*args, **kwargs)


class CountedFeed(ChangeFeed):
    """The changes, which counts those that are told."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.counts = counts

    def publish(self, change) -> None:
        self.counts["changes"] += 1
        self.counts["changes told"] += len(self._listeners) + len(self._of.get(change.id, ()))
        super().publish(change)


class CountedEngine(Engine):
    """The engine, which counts what is asked of it. A read of the members gets `most_members` of them."""

    most_members: int | None = None

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.counts: Counter[str] = Counter()
        self.announced: Counter[int] = Counter()
        """Number of announcements by tenth of a second."""
        self.store._queue._schedule = CountedSchedule(self.counts)
        self.store._feed = feed = CountedFeed(self.counts)
        self.store._saving._publish = feed.publish

    def method(self, name, namespace=""):
        self.counts["calls"] += 1
        self.counts[f"call {name}"] += 1
        return super().method(name, namespace)

    async def claim(self, number, ticket, containers, **wanted):
        granted = await super().claim(number, ticket, containers, **wanted)
        if containers is not None:
            self.counts["claims asked"] += 1
            self.counts["claims given"] += len(granted)
            self.counts["claims empty"] += not granted
        return granted

    async def announce(self, number, announcement) -> None:
        self.announced[int(self.clock.monotonic() / AT_ONCE_SECONDS)] += 1
        await super().announce(number, announcement)

    async def nodes(self):
        members = await super().nodes()
        told = members[: self.most_members]
        self.counts["members read"] += len(members)
        self.counts["bytes of members"] += len(encode(told)) * len(members) // max(1, len(told))
        return told


class LeanRunner:
    """A runner whose calls take some time, and are not noted: a simulation's are kept for its checks."""

    in_process: Literal[True] = True
    concurrency = SLOTS

    def __init__(self, ids: Collection[str]) -> None:
        self.containers = {id: Container(id=id, timeout_seconds=30.0) for id in ids}

    async def __aenter__(self) -> "LeanRunner":
        return self

    async def __aexit__(self, *error: object) -> None:
        return None

    def running(self) -> Collection[str]:
        return self.containers

    async def changed(self) -> None:
        await anyio.sleep_forever()

    def problems(self) -> Collection[str]:
        return ()

    async def run(self, step: Step) -> ContainerOutput:
        await anyio.sleep(CALL_SECONDS)
        return ContainerOutput(container=step.container, output=OUTPUT)


class MeasuredCluster(Cluster):
    """The cluster, with lean clients and without the checks of a simulation: they would take most of the time."""

    engine: CountedEngine

    def __init__(self, nodes: int, options: argparse.Namespace) -> None:
        size = Size(nodes=nodes, jobs=0, lease_seconds=options.lease, step_seconds=0, most_steps=float("inf"))
        super().__init__(1, faults=(), size=size, trace=False)
        self.options = options
        self.limits = NodeLimits(concurrency=SLOTS, drain_seconds=1.0, max_pending=10**9)
        self.placed = {name: ("a", "b")[: 1 + number % 2] for number, name in enumerate(self.nodes)}
        self.chance = self.world.chance("lean clients")
        self.seconds: list[float] = []
        """Seconds from the acceptance of each job to its end."""
        self.refused = 0

    def make_engine(self, machine) -> CountedEngine:
        disk = Disk(machine.disk.setdefault("jobs", make_table()), machine)
        self.engine = CountedEngine(disk, self.size.lease_seconds, clock=machine.clock, random=machine.random)
        self.engine.most_members = self.options.members
        return self.engine

    def make_node(self, machine, runner, observer) -> Node:
        store, clock, random = self.store(machine), machine.clock, machine.random
        runners = [LeanRunner(self.placed[machine.name])]
        return Node(store=store, runners=runners, name=machine.name, limits=self.limits, clock=clock, random=random)

    def measure(self) -> "MeasuredCluster":
        self.world.run(self._measure)
        return self

    async def _measure(self) -> None:
        for name in (ENGINE, *self.nodes):
            self.start(name)
        await anyio.sleep(self.size.lease_seconds)
        self.idle = await self._looked(lambda: anyio.sleep(self.size.lease_seconds))
        self.alone = await self._looked(self._submit_one_by_one)
        counts, engine, world = self.engine.counts, self.engine, self.world
        counts.clear(), engine.announced.clear(), world.loop.turns.clear()
        began_at, sent, sent_bytes = world.loop.now, world.network.sent, world.network.sent_bytes
        await self._submit_all()
        self.virtual_seconds = world.loop.now - began_at
        self.counts = Counter(counts)
        self.counts["frames"], self.counts["bytes"] = world.network.sent - sent, world.network.sent_bytes - sent_bytes
        self.turns, self.at_once = Counter(world.loop.turns), max(engine.announced.values(), default=0)

    async def _looked(self, work) -> Counter[str]:
        """Do some work. Return what was counted meanwhile."""
        self.engine.counts.clear()
        sent = self.world.network.sent
        await work()
        counts = Counter(self.engine.counts, frames=self.world.network.sent - sent)
        counts["calls for jobs"] = counts["calls"] - sum(counts[f"call {name}"] for name in OF_NODES)
        return counts

    async def _submit_one_by_one(self) -> None:
        for number in range(self.options.alone):
            [job] = await self._ask(lambda node, number=number: node.submit_many([self._request(number, 0)]))
            await self._ask(lambda node, job=job: node.wait([job.id]))

    async def _submit_all(self) -> None:
        """Submit the jobs of all clients, at random times with the same mean, and wait for their end."""
        batches = self.options.jobs // self.options.batch
        mean = self.options.batch * CALL_SECONDS * CALLS_OF_JOB / (self.size.nodes * SLOTS * self.options.load)
        async with anyio.create_task_group() as tasks:
            for number in range(batches):
                tasks.start_soon(self._submit, number)
                await anyio.sleep(self.chance.expovariate(1 / mean))

    async def _submit(self, number: int) -> None:
        requests = [self._request(number, place) for place in range(self.options.batch)]
        accepted = await self._ask(lambda node: node.submit_many(requests))
        ids = [answer.id for answer in accepted if isinstance(answer, Job)]
        self.refused += len(accepted) - len(ids)
        for job in await self._ask(lambda node: node.wait(ids)):
            assert job.status is JobStatus.SUCCESS, job.error
            self.seconds.append(job.finished_at - job.accepted_at)

    def _request(self, number: int, place: int) -> JobRequest:
        containers = ("a", "b")[: 1 + place % 2]
        return JobRequest(containers=containers, data=DATA, client=f"client-{number % GROUPS}")

    async def _ask(self, question):
        name = self.nodes[self.chance.randrange(len(self.nodes))]
        return await self.machine("clients").ask(self.machine(name), lambda: question(self.node(name)))


def measured(nodes: int, options: argparse.Namespace) -> dict[str, str]:
    """Run a cluster. Return its column of the table."""
    logging.disable(logging.CRITICAL)
    began = time.process_time()
    cluster = MeasuredCluster(nodes, options).measure()
    return dict(figures(cluster, time.process_time() - began))


def figures(cluster: MeasuredCluster, cpu_seconds: float) -> Iterator[tuple[str, str]]:
    jobs = len(cluster.seconds)
    if jobs != cluster.options.jobs // cluster.options.batch * cluster.options.batch:
        raise SystemExit(f"only {jobs} jobs have ended; {cluster.refused} were refused")
    yield "nodes", f"{cluster.size.nodes:,}"
    yield "jobs", f"{jobs:,}"
    yield "virtual seconds", f"{cluster.virtual_seconds:,.0f}"
    yield (
        "seconds of a job, median and longest",
        f"{statistics.median(cluster.seconds):.2f}, {max(cluster.seconds):.2f}",
    )
    yield from idle_and_alone(cluster)
    yield from per_job(cluster, jobs)
    yield from per_node(cluster)
    yield "**of the simulation**", ""
    yield "processor seconds", f"{cpu_seconds:,.0f}"
    yield "memory, MB", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f}"
    calls = {name[5:]: number / jobs for name, number in cluster.counts.items() if name.startswith("call ")}
    yield "calls per job", ", ".join(f"{name} {number:.2f}" for name, number in sorted(calls.items()))


def idle_and_alone(cluster: MeasuredCluster) -> Iterator[tuple[str, str]]:
    yield "**of an idle node, per second**", ""
    for name, kinds in (
        ("calls", ("calls",)),
        ("renewals; announcements", ("call renew", "call announce")),
        ("claims; looks for expired jobs", ("claims asked", "looks for expired")),
        ("members read", ("members read",)),
    ):
        of_node = (cluster.idle[kind] / cluster.size.nodes / cluster.size.lease_seconds for kind in kinds)
        yield f"{name} of an idle node", "; ".join(f"{number:.2f}" for number in of_node)
    yield "**of a job that comes alone**", ""
    for name, kinds in (
        ("calls", ("calls for jobs",)),
        ("claims; wake-ups of those that wait", ("claims asked", "looks")),
        ("looks for expired jobs", ("looks for expired",)),
        ("changes told", ("changes told",)),
    ):
        of_one = (f"{cluster.alone[kind] / max(1, cluster.options.alone):.1f}" for kind in kinds)
        yield f"{name} of a job alone", "; ".join(of_one)


def per_job(cluster: MeasuredCluster, jobs: int) -> Iterator[tuple[str, str]]:
    counts = cluster.counts
    of_nodes = [turns for name, turns in cluster.turns.items() if name.startswith("node-")]
    yield "**per job**", ""
    yield "calls of the engine", f"{counts['calls'] / jobs:.2f}"
    yield "claims asked", f"{counts['claims asked'] / jobs:.2f}"
    yield "claims given", f"{counts['claims given'] / jobs:.2f}"
    yield "claims that ended empty", f"{counts['claims empty'] / jobs:.3f}"
    yield "wake-ups of waiting claims", f"{(counts['looks'] - counts['claims asked']) / jobs:.2f}"
    yield "wake-ups of those that wait for expired jobs", f"{counts['looks for expired'] / jobs:.2f}"
    yield "changes told", f"{counts['changes told'] / jobs:.2f}"
    yield "turns of the engine's tasks", f"{cluster.turns[ENGINE] / jobs:.0f}"
    yield "turns of the nodes' tasks", f"{sum(of_nodes) / jobs:.0f}"
    yield "frames on the network", f"{counts['frames'] / jobs:.1f}"
    yield "bytes on the network", f"{counts['bytes'] / jobs:,.0f}"


def per_node(cluster: MeasuredCluster) -> Iterator[tuple[str, str]]:
    counts, lease = cluster.counts, cluster.size.lease_seconds
    times = cluster.size.nodes * cluster.virtual_seconds / lease
    yield f"**per node and lease of {lease:g} s**", ""
    yield "announcements", f"{counts['call announce'] / times:.2f}"
    yield "renewals", f"{counts['call renew'] / times:.2f}"
    yield "members read", f"{counts['members read'] / times:,.0f}"
    yield "bytes of members", f"{counts['bytes of members'] / times:,.0f}"
    yield "**of the cluster**", ""
    yield "members read per second", f"{counts['members read'] / cluster.virtual_seconds:,.0f}"
    yield "bytes of members per second", f"{counts['bytes of members'] / cluster.virtual_seconds:,.0f}"
    yield f"most announcements within {AT_ONCE_SECONDS:g} s", f"{cluster.at_once}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 50, 200])
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--load", type=float, default=0.5, help="share of the slots that are kept busy")
    parser.add_argument("--batch", type=int, default=10, help="number of jobs that are submitted together")
    parser.add_argument("--lease", type=float, default=15.0, help="seconds of a lease")
    parser.add_argument("--members", type=int, help="members that a read gives at most; all are counted")
    parser.add_argument("--alone", type=int, default=20, help="number of jobs that come alone")
    options = parser.parse_args()
    columns: list[dict[str, str]] = []
    for nodes in options.nodes:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # so that the memory is given back
            columns.append(pool.submit(partial(measured, nodes, options)).result())
    print("|" * (len(columns) + 2) + "\n|" + "---|" * (len(columns) + 1))
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(column[name] for column in columns) + " |")


if __name__ == "__main__":
    main()
