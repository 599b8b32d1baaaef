"""The plan that a seed gives before anything runs: containers of the nodes, limits, jobs of clients, and faults."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from nodekit import ClientLimits, ContainerId, NodeLimits
from nodekit.testing.simulation.faults import Fault, draw_faults
from nodekit.testing.simulation.workload import PlannedJob, draw_jobs

CONTAINERS = ("a", "b", "c")
RUSH = 0.3
"""Share of the seeds whose jobs are all submitted within a short time, so that queues grow long."""
RUSH_SECONDS = 2.0
"""Longest such time."""
LIMITED = 0.3
"""Share of the containers that are called once at a time by each node."""
TIMED = 0.2
"""Share of the seeds whose jobs have a time limit of `TIMEOUT_SECONDS`."""
TIMEOUT_SECONDS = 4.0
DRAIN_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Size:
    """The amounts of everything in a simulation, and its times.

    - `concurrency`: Maximum number of slots of each node.
    - `span_seconds`: Time in which jobs are submitted and faults begin.
    - `settle_seconds`: Time after the last fault within which every job must have ended.
    - `poison`: Share of jobs that end all nodes which run them. As many end a few nodes, and then go on.
    - `step_seconds`: Time that each turn of a task takes.
    - `most_steps`: Number of turns after which the simulation fails: something in it never rests. One of this size
      takes some 10,000.
    """

    nodes: int = 3
    clients: int = 3
    jobs: int = 16
    faults: int = 6
    concurrency: int = 3
    span_seconds: float = 8.0
    settle_seconds: float = 90.0
    lease_seconds: float = 3.0
    poison: float = 0.02
    step_seconds: float = 1e-6
    most_steps: float = 300_000


@dataclass(frozen=True)
class Plan:
    """A plan of a simulation.

    - `placed`: Containers of each node.
    - `slots`: Numbers of calls at once of the containers that are limited, on each node.
    - `jobs`: Jobs that clients want, by key.
    """

    placed: Mapping[str, Sequence[ContainerId]]
    slots: Mapping[ContainerId, int]
    limits: NodeLimits
    jobs: Mapping[str, PlannedJob]
    faults: tuple[Fault, ...]


def draw_plan(chance: Callable[[str], Random], size: Size) -> Plan:
    """Draw a plan. `chance` returns the source of random numbers for a purpose."""
    nodes = [f"node-{number}" for number in range(1, size.nodes + 1)]
    limits, drawn = chance("limits"), chance("jobs")
    jobs = draw_jobs(
        drawn,
        jobs=size.jobs,
        clients=1 + drawn.randrange(size.clients),
        containers=CONTAINERS[: 1 + drawn.randrange(len(CONTAINERS))],
        span=size.span_seconds if drawn.random() > RUSH else drawn.random() * RUSH_SECONDS,
        poison=size.poison,
    )
    return Plan(
        placed=_draw_places(chance("places"), nodes),
        slots={id: 1 for id in CONTAINERS if limits.random() < LIMITED},
        limits=NodeLimits(
            concurrency=(concurrency := 1 + limits.randrange(size.concurrency)),
            each_client=ClientLimits(
                concurrency=concurrency
            ),  # a free slot is for whoever has jobs, as the check expects
            job_timeout_seconds=TIMEOUT_SECONDS if limits.random() < TIMED else None,
            drain_seconds=DRAIN_SECONDS,
        ),
        jobs={job.key: job for job in jobs},
        faults=draw_faults(
            chance("faults"), nodes, CONTAINERS, span=size.span_seconds, lease=size.lease_seconds, most=size.faults
        ),
    )


def _draw_places(random: Random, nodes: Sequence[str]) -> Mapping[str, Sequence[ContainerId]]:
    """Choose the containers of each node: the first everywhere, the others on some nodes."""
    placed = {name: [CONTAINERS[0]] for name in nodes}
    for id in CONTAINERS[1:]:
        certain = nodes[random.randrange(len(nodes))]
        for name in nodes:
            if random.random() < 0.5 or name == certain:
                placed[name].append(id)
    return placed
