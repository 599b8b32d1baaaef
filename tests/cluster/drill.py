"""A drill: three nodes, each with other containers, work while everything around them fails."""

import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.to_thread
from served import nodekit

from cluster.clients import Clients, containers_of, results
from cluster.containers import Containers, containers
from cluster.engines import Engine
from cluster.faults import Faults, Plan, RollingRestart, Watch
from cluster.judge import Evidence, problems
from cluster.nodes import NodeProcess, node_file, prepare
from nodekit.testing import TcpProxy

LEASE_SECONDS = 3.0
FINISH_SECONDS = 120.0
NODES = 3
RECORD = re.compile(r"^(?=\d{4}-\d\d-\d\d )", re.MULTILINE)
"""The beginning of a record in a log."""


@dataclass(frozen=True)
class Size:
    """Size of a drill.

    - `seconds`: Time over which jobs are submitted. All faults begin in it.
    - `cut_seconds`: Time for which a node does not reach the engine.
    """

    jobs: int
    seconds: float
    cut_seconds: float


@dataclass
class Figures:
    """Results of a drill. `problems` must be empty."""

    plan: str
    jobs: int = 0
    seconds: float = 0.0
    calls: int = 0
    repeated: int = 0
    takeovers: int = 0
    retries: int = 0
    untold: int = 0
    harms: Sequence[str] = ()
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join(
            [
                f"plan                             {self.plan}",
                f"jobs, seconds until all ended    {self.jobs}, {self.seconds:.1f}",
                f"calls of containers, repeated    {self.calls}, {self.repeated}",
                f"claims taken over                {self.takeovers}",
                f"requests repeated by clients     {self.retries}",
                f"ends that no observer was told   {self.untold}",
                f"times in which leases may end    {', '.join(self.harms)}",
                f"problems                         {len(self.problems)}",
                *(f"  {problem}" for problem in self.problems[:20]),
            ]
        )


async def drill(folder: Path, engine: Engine, seed: int, size: Size, *, rolling: bool = False) -> Figures:
    """Run a drill on an engine. `rolling` restarts the nodes gently instead of the faults of a plan."""
    async with AsyncExitStack() as stack:
        called = await stack.enter_async_context(containers())
        proxy = stack.enter_context(TcpProxy(*engine.address))
        plan = Plan.of(seed, size.seconds)
        nodes = await _nodes(stack, folder, engine, called, proxy, plan)
        began_at = time.monotonic()
        clients = Clients(nodes, seed, size.jobs, size.seconds, patient=not engine.remembers)
        faults: Faults | RollingRestart = Faults(plan, nodes, engine, proxy, lease=LEASE_SECONDS, cut=size.cut_seconds)
        if rolling:
            faults = RollingRestart(nodes, size.seconds)
        watch = Watch(nodes, LEASE_SECONDS, cut=nodes[plan.cut])
        async with anyio.create_task_group() as watching:
            watching.start_soon(watch.run)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(clients.submit_all)
                tasks.start_soon(faults.run)
            seen = Evidence(clients.jobs, called.calls, [], LEASE_SECONDS)
            figures = Figures("a rolling restart" if rolling else str(plan), len(clients.jobs))
            await _look(nodes, seen)
            figures.seconds = time.monotonic() - began_at
            watching.cancel_scope.cancel()
        seen.harms = [*faults.harms, *watch.harms]
        seen.notes = [*clients.wrong, *await _ends(nodes, plan)]
        if isinstance(faults, RollingRestart) and any(faults.codes):
            seen.notes = [*seen.notes, f"nodes that were stopped gently ended with {faults.codes}"]
        seen.told = (folder / "finished").read_text().split()
        await _look_at_cluster(nodes[0].file, seen, figures)
    figures.calls, figures.repeated = len(seen.calls), len(seen.calls) - len({call.key for call in seen.calls})
    figures.retries, figures.harms = clients.retries, [harm.told(seen.began_at) for harm in seen.harms]
    figures.untold = len(set(seen.ids) - set(seen.told))
    figures.problems = list(problems(seen))
    return figures


async def _nodes(
    stack: AsyncExitStack, folder: Path, engine: Engine, called: Containers, proxy: TcpProxy, plan: Plan
) -> list[NodeProcess]:
    """Start the nodes, one of them behind the proxy, and one with a wrong clock."""
    env, nodes = prepare(folder), list[NodeProcess]()
    for number in range(NODES):
        name = f"node-{number}"
        host, port = proxy.address if number == plan.cut else engine.address
        store = engine.store(host, port, LEASE_SECONDS)
        file = node_file(folder, name, store, called.url(name), containers_of(number))
        skew = plan.skew_seconds if number == plan.skewed else 0
        nodes.append(await stack.enter_async_context(NodeProcess(name, file, env, skew_seconds=skew)))
    for node in nodes:
        await _until_whole(node)
    return nodes


async def _until_whole(node: NodeProcess) -> None:
    """Wait until a node knows the containers of all."""
    with anyio.fail_after(60):
        while len((await node.ask("GET", "/info", seconds=60)).json["containers"]) < NODES:
            await anyio.sleep(0.05)


async def _look(nodes: Sequence[NodeProcess], seen: Evidence) -> None:
    """Let all jobs finish, and ask each node for each of them."""
    found, listed, pending = {}, {}, {}
    for node in nodes:
        found[node.name] = await results(node, seen.ids, FINISH_SECONDS)
    for node in nodes:
        listed[node.name] = (await node.ask("GET", "/api/jobs", seconds=60)).json
        pending[node.name] = (await node.ask("GET", "/api/jobs?pending=true", seconds=60)).json
    seen.results, seen.listed, seen.pending = found, listed, pending


async def _ends(nodes: Sequence[NodeProcess], plan: Plan) -> list[str]:
    """Stop the nodes. Return what is wrong with their health, their exit codes and their logs."""
    wrong: list[str] = []
    health = (await nodes[plan.skewed].ask("GET", "/health", seconds=60)).json
    if "clock" not in json.dumps(health):
        wrong.append(f"a clock is {plan.skew_seconds:+g} s wrong, and /health does not say so: {health}")
    for node in nodes:
        if code := await node.stop():
            wrong.append(f"{node.name} ended with {code}")
        wrong += [f"{node.name} logged: {text}" for life in node.lives for text in traced(life.log)]
    return wrong


def traced(log: str) -> Iterator[str]:
    """Yield the records of a log with a traceback: an engine that cannot be reached is no reason for one."""
    return (record[-2000:] for record in RECORD.split(log) if "Traceback" in record)


async def _look_at_cluster(file: Path, seen: Evidence, figures: Figures) -> None:
    """Ask the engine what is left to do, now that no node runs."""
    done = await anyio.to_thread.run_sync(lambda: nodekit("cluster", file, "--json", PYTHONPATH=str(file.parent)))
    if done.returncode:
        seen.notes = [*seen.notes, f"nodekit cluster: {done.stderr}"]
        return
    report = json.loads(done.stdout)
    seen.queued = report["pending"] + sum(queue["jobs"] for queue in report["queues"].values())
    figures.takeovers = report["takeovers"]
