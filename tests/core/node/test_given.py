"""A node's times and ids are those of the clock and the chance that it was given, and its order is no hash's."""

import os
import subprocess
import sys
from random import Random

import anyio
import pytest
from clocks import GivenClock
from components import PATIENCE_SECONDS, functions, make_node, request

from nodekit import (
    Claim,
    Container,
    ContainerFailed,
    EmbeddedStore,
    Job,
    JobQuery,
    JobStatus,
    Node,
    Outcome,
    Retry,
    StoreCall,
    SystemClock,
)
from nodekit.testing import SharedMemory, make_job, succeeded
from nodekit_memory import MemoryStore, MemoryTable

pytestmark = pytest.mark.anyio

UNIX, STEADY = 1_000_000_000.0, -5000.0
"""Times of a given clock: a past, and steady seconds below zero."""


async def run(node: Node, count: int = 3) -> list[Job]:
    async with node:
        with anyio.fail_after(PATIENCE_SECONDS):
            return await node.wait([(await node.submit(request())).id for _ in range(count)])


def given(seed: int = 7) -> Node:
    clock = GivenClock(UNIX, STEADY)
    return make_node(store=MemoryStore(clock=clock), clock=clock, random=Random(seed))


async def test_plugins_find_the_clock_and_the_chance_that_the_node_was_given() -> None:
    clock, random = GivenClock(), Random(1)
    node = make_node(clock=clock, random=random)
    assert node.clock is clock
    assert node.random is random


async def test_by_default_they_are_the_systems() -> None:
    one, other = make_node(), make_node()
    assert isinstance(one.clock, SystemClock)
    assert one.random.random() != other.random.random()


async def test_all_times_of_a_job_are_those_of_the_given_clock() -> None:
    node = given()
    for job in await run(node):
        [attempt] = job.steps[0].attempts
        times = [job.accepted_at, attempt.started_at, attempt.finished_at, job.finished_at, node.now()]
        assert times == [UNIX] * 5
        assert int(job.id[:13].replace("-", ""), 16) == UNIX * 1000


async def test_nodes_with_the_same_clock_and_seed_give_the_same_ids() -> None:
    first, again, other = [[job.id for job in await run(given(seed))] for seed in (7, 7, 8)]
    assert first == again
    assert not set(first) & set(other)


async def test_the_incarnation_is_drawn_from_what_is_given(shared_incarnations: list[str]) -> None:
    first, again, other = shared_incarnations
    assert first == again != other
    assert len(first) == len(other) == 32
    int(first, 16)


@pytest.fixture
async def shared_incarnations() -> list[str]:
    """The incarnations of three nodes, the first two of one seed."""
    found: list[str] = []
    for seed in (7, 7, 8):
        with SharedMemory() as shared:
            async with make_node(store=shared.store(), random=Random(seed)) as node:
                found += [member.announcement.incarnation for member in await node.members()]
    return found


async def test_a_pause_before_a_retry_is_drawn_from_what_is_given() -> None:
    async def fails(data: object) -> None:
        raise ContainerFailed("died", "it died")

    class Store(MemoryStore):
        async def release(self, claim: Claim, job: Job, *, delay_seconds: float = 0) -> None:
            delays.append(delay_seconds)
            released.set()
            await super().release(claim, job, delay_seconds=delay_seconds)

    delays: list[float] = []
    retry = Retry(attempts=2, first_delay_seconds=1000, longest_delay_seconds=1000)
    for seed in (7, 7, 8):
        runner, released = functions(), anyio.Event()
        runner.add(Container(id="fails", retry=retry), fails)
        async with make_node(runner, store=Store(), random=Random(seed), drain_seconds=0) as node:
            await node.submit(request("fails"))
            with anyio.fail_after(PATIENCE_SECONDS):
                await released.wait()
    assert delays[0] == delays[1] != delays[2]


async def test_a_jobs_time_counts_on_the_given_clock() -> None:
    clock = GivenClock(UNIX, STEADY)
    gate, begun = anyio.Event(), anyio.Event()

    async def slow(data: object) -> object:
        begun.set()
        await gate.wait()
        return data

    runner = functions(slow=slow)
    async with make_node(runner, store=MemoryStore(clock=clock), clock=clock, job_timeout_seconds=60) as node:
        job = await node.submit(request("slow", "echo"))
        await begun.wait()
        clock.advance(61)
        gate.set()
        with anyio.fail_after(PATIENCE_SECONDS):
            [job] = await node.wait([job.id])
    assert job.error is not None
    assert job.error.kind == "job_timeout"
    assert job.finished_at == UNIX + 61


async def test_calls_of_the_store_are_timed_by_the_given_clock() -> None:
    clock = GivenClock(UNIX, STEADY)
    calls: list[StoreCall] = []

    class Table(MemoryTable):
        async def add(self, jobs: object) -> list[Job]:
            clock.advance(2.5)
            return await super().add(jobs)  # type: ignore[arg-type]

    class Observer:
        def nodekit_observe_store(self, call: StoreCall) -> None:
            calls.append(call)

    node = make_node(store=EmbeddedStore(Table(), clock=clock), plugins=[Observer()], clock=clock)
    await run(node, 1)
    assert [call.seconds for call in calls if call.method == "add"] == [2.5]


async def test_a_store_dates_and_numbers_by_the_clock_that_it_was_given() -> None:
    clock = GivenClock(UNIX, STEADY)
    async with EmbeddedStore(MemoryTable(), clock=clock) as store:
        one, other = await store.add([make_job(), make_job()])
        [claim, later] = await store.claim(["echo"], None, 2)
        await store.save(claim, succeeded(claim.job))
        assert claim.job.finish_number == UNIX * 1e6 + 1
        clock.advance(10)
        await store.release(later, later.job, delay_seconds=5)
        assert [job.not_before for job in await store.get([other.id])] == [UNIX + 15]
        clock.advance(5)
        with anyio.fail_after(PATIENCE_SECONDS):
            [again] = await store.claim(["echo"], None, 1)
        assert again.age_seconds == 15
        settled = await store.settle(other.id, Outcome(JobStatus.SUCCESS), client=None)
        assert settled is not None
        assert settled.job.finished_at == UNIX + 15
        assert settled.job.finish_number == (UNIX + 15) * 1e6
        assert await store.find(JobQuery(order="finished")) == [one.id, other.id]


HASHED = """
import anyio
from nodekit import ClientLimits, JobQuery, NodeLimits, UNFINISHED
from nodekit.testing import make_function_runner, make_node, make_request
from nodekit.testing.shared_store.wire import Request, encode, raw
from nodekit_memory import MemoryStore

NAMES = [f"container {number}" for number in range(20)]

class Store(MemoryStore):
    async def claim(self, containers, pipelines, limit, **more):
        print("claim", list(containers), pipelines)
        return await super().claim(containers, pipelines, limit, **more)

    async def pending(self, groups=()):
        print("pending", list(groups))
        return await super().pending(groups)

async def echo(data):
    return data

async def main():
    limits = NodeLimits(drain_seconds=0, each_client=ClientLimits(max_pending=5))
    runner = make_function_runner(functions=dict.fromkeys(NAMES, echo))
    async with make_node(store=Store(), runners=[runner], limits=limits) as node:
        print("running", list(node.running()))
        await node.submit_many([make_request(client=name) for name in NAMES])
    print("frame", encode(Request(1, "find", raw({"query": JobQuery(status=UNFINISHED)}))))
    print("frame", encode(Request(1, "claim", raw({"containers": frozenset(NAMES)}))))

anyio.run(main)
"""


def test_what_a_node_calls_and_sends_does_not_depend_on_the_hash_seed() -> None:
    def printed(seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        run = subprocess.run(
            [sys.executable, "-c", HASHED], env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
        return run.stdout

    first = printed("1")
    assert {line.split()[0] for line in first.splitlines()} == {"claim", "pending", "running", "frame"}
    assert printed("2") == first
