"""Promises of a whole cluster: each is broken by nodes that do one thing wrong, and is caught."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import anyio
import pytest
from kit.simulation.ledgers import breaks
from kit.simulation.toys import SMALL
from msgspec.structs import replace

from nodekit import JobQuery, Node
from nodekit.testing.simulation import Cluster
from nodekit.testing.simulation.containers import SimulatedRunner
from nodekit.testing.simulation.workload import PlannedJob, Script

JOBS = ["job-0", "job-1"]


class Broken(Cluster):
    """A cluster without faults, whose nodes are broken by `breaking`. Its clients do what `then` says."""

    size = dataclasses.replace(SMALL, settle_seconds=60.0)
    breaking: ClassVar[Callable[[Any], None]]
    then: ClassVar[str] = "wait"

    def __init__(self) -> None:
        super().__init__(1, faults=[], jobs=JOBS)
        for key, planned_job in self.jobs.items():
            self.jobs[key] = self.changed(planned_job)

    def changed(self, planned_job: PlannedJob) -> PlannedJob:
        steps = len(planned_job.containers)
        script = Script(key=planned_job.key, seconds=[0.5] * steps)
        return dataclasses.replace(planned_job, script=script, then=self.then)

    def make_node(self, machine: Any, runner: SimulatedRunner, observer: object) -> Node:
        node = super().make_node(machine, runner, observer)
        self.breaking(node)
        return node


def cluster(breaking: Callable[[Any], None], then: str = "wait") -> Broken:
    kind = type("OneOf", (Broken,), {"breaking": staticmethod(breaking), "then": then})
    return kind()


def nothing(node: Any) -> None:
    """Break nothing."""


def count_one_more(node: Any) -> None:
    pending = node.pending

    async def counted(clients: Any = ()) -> Any:
        return replace(await pending(clients), offchain=1)

    node.pending = counted


def see_nobody(node: Any) -> None:
    async def members() -> list[Any]:
        return []

    node.members = members


def be_ill(node: Any) -> None:
    health = node.health

    async def ill() -> Any:
        return replace(await health(), reasons=("it feels unwell",))

    node.health = ill


def hide_ends(node: Any) -> None:
    find = node.find

    async def found(query: JobQuery) -> Any:
        return [] if query.order == "finished" else await find(query)

    node.find = found


def wait_for_ever(node: Any) -> None:
    async def wait(*args: Any, **kwargs: Any) -> None:
        await anyio.sleep_forever()

    node.wait = wait


def wait_for_nothing(node: Any) -> None:
    node.wait = node.fetch


def accept_twice(node: Any) -> None:
    submit = node.submit

    async def submitted(request: Any) -> Any:
        await submit(replace(request, idempotency_key=None))
        return await submit(request)

    node.submit = submitted


def forget(node: Any) -> None:
    async def fetch(ids: Any, **more: Any) -> list[Any]:
        return []

    node.fetch = fetch


@pytest.mark.parametrize("then", ["wait", "follow", "ask", "cancel", "stream"])
def test_a_cluster_of_sound_nodes_breaks_nothing(then: str) -> None:
    cluster(nothing, then).run()


@pytest.mark.parametrize(
    ("promise", "breaking"),
    {
        "counts are right": count_one_more,
        "the live are known": see_nobody,
        "a whole cluster is healthy": be_ill,
        "a reader of ends misses none": hide_ends,
        "a wait is answered": wait_for_ever,
        "a wait ends with the job": wait_for_nothing,
        "one key, one job": accept_twice,
        "no accepted job is lost": forget,
    }.items(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_node_that_does_one_thing_wrong_is_caught(promise: str, breaking: Callable[[Any], None]) -> None:
    with breaks(promise):
        cluster(breaking).run()


def test_jobs_that_never_end_are_caught() -> None:
    whole = cluster(nothing)
    for node, ids in whole.placed.items():
        for id in ids:
            whole.containers.take_down(node, id)
    with breaks("every job ends"):
        whole.run()
