"""Failovers by Sentinel while jobs run, on real servers: what is kept, and what may be lost."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

import anyio
import anyio.to_thread
import pytest
from redis_server import HOST, RedisServer, SentinelServer, waited
from stores import secret, store_on

from nodekit import CompositionError, Job, JobFinished, JobStatus, Node, StoreFailed, Unavailable
from nodekit.testing import make_job, make_node, make_request
from nodekit_redis import RedisConfig, RedisStore

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

SECONDS = 100.0
JOBS = 120
NAME = "primary"


class Watched(NamedTuple):
    """A primary with two replicas, and the Sentinel that watches them."""

    primary: RedisServer
    replicas: tuple[RedisServer, RedisServer]
    sentinel: SentinelServer

    def store(self, **settings: object) -> RedisStore:
        """Return a store that finds the primary by Sentinel. Another one that does not answer is asked first."""
        sentinels = (f"{HOST}:1", f"{HOST}:{self.sentinel.port}")
        url = secret(f"redis://{NAME}/0")
        return store_on(self.primary, url=url, sentinels=sentinels, call_seconds=4.0, connect_seconds=2.0, **settings)


@pytest.fixture
def watched() -> Iterator[Watched]:
    with ExitStack() as stack:
        primary = stack.enter_context(RedisServer())
        follow = f"replicaof {HOST} {primary.port}"
        first, second = (stack.enter_context(RedisServer(follow)) for _ in range(2))
        assert waited(lambda: b"connected_slaves:2" in primary.call("INFO", "replication"))
        for one in (first, second):
            assert waited(lambda one=one: b"master_link_status:up" in one.call("INFO", "replication"))
        sentinel = stack.enter_context(SentinelServer(primary))
        assert waited(lambda: sentinel.call("SENTINEL", "REPLICAS", NAME).count(b"runid") == 2)
        yield Watched(primary, (first, second), sentinel)


class Observer:
    """Counts how often the end of each job was told."""

    def __init__(self) -> None:
        self.ends = Counter[str]()

    def nodekit_observe(self, event: object) -> None:
        if isinstance(event, JobFinished):
            self.ends[event.job.id] += 1


async def submitted(nodes: tuple[Node, Node], number: int) -> str:
    """Submit a job, again and again with its key, at both nodes in turn; return its id."""
    request = make_request("echo", "echo", idempotency_key=f"job {number}")
    for again in range(10_000):
        try:
            return (await nodes[(number + again) % 2].submit(request)).id
        except (StoreFailed, Unavailable):
            await anyio.sleep(0.05)
    raise AssertionError("a job was never accepted")


async def ended(node: Node, ids: list[str]) -> dict[str, JobStatus]:
    """Wait until each of these jobs has ended or is unknown; return the status of those that are known."""
    while True:
        try:
            jobs = await node.fetch(ids)
        except StoreFailed:
            jobs = None
        if jobs is not None and all(job.status.finished for job in jobs):
            return {job.id: job.status for job in jobs}
        await anyio.sleep(0.1)


@pytest.mark.parametrize(
    ("harm", "confirmed"),
    [(RedisServer.kill, 1), (RedisServer.freeze, 1), (RedisServer.kill, 0)],
    ids=["killed", "frozen", "killed without confirmed writes"],
)
async def test_jobs_go_on_with_the_replica_and_with_confirmed_writes_none_is_lost_or_ended_twice(
    watched: Watched, harm: Callable[[RedisServer], None], confirmed: int
) -> None:
    """Without confirmed writes, jobs may be lost by replication: the test names them, and all others end."""
    observer, ids = Observer(), list[str]()
    one, other = (
        make_node(store=watched.store(replicas=confirmed), plugins=[observer], name=name) for name in ("one", "other")
    )
    with anyio.fail_after(SECONDS):
        async with one, other:
            for number in range(JOBS):
                ids.append(await submitted((one, other), number))
                if number == JOBS // 3:
                    await anyio.to_thread.run_sync(harm, watched.primary)
            found = await ended(one, ids)
            lost = [id for id in ids if id not in found]
            twice = [id for id, count in observer.ends.items() if count > 1]
            print(f"lost by replication: {lost}; ended twice for it: {twice}")
            assert set(found.values()) == {JobStatus.SUCCESS}
            if confirmed:
                assert (lost, twice) == ([], [])


async def test_what_too_few_replicas_have_is_not_acknowledged_and_not_read(watched: Watched) -> None:
    """A read would acknowledge a write that failed: a client whose request is refused asks again with its key."""
    few = r"too few replicas have it \(1 of 2 replicas\)"
    async with watched.store(replicas=2) as store:
        await store.add([job := make_job()])
        assert await store.get([job.id]) == [job]
        watched.replicas[0].kill()
        with pytest.raises(StoreFailed, match=few):
            await store.add([late := make_job()])
        with pytest.raises(StoreFailed, match=few):
            await store.get([late.id])
        await anyio.to_thread.run_sync(watched.replicas[0].start)
        with anyio.fail_after(SECONDS):
            assert await read(store, [job.id, late.id]) == [job, late]


async def read(store: RedisStore, ids: list[str]) -> list[Job]:
    while True:
        try:
            return await store.get(ids)
        except StoreFailed:
            await anyio.sleep(0.05)


async def test_sentinels_that_know_nothing_are_told_each_with_its_reason(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    sentinels = (f"{HOST}:1", f"{HOST}:{watched.sentinel.port}")
    store = store_on(watched.primary, url=secret("redis://another/0"), sentinels=sentinels)
    with caplog.at_level(logging.INFO), pytest.raises(StoreFailed) as raised:
        async with store:
            pass
    assert f"{HOST}:1: " in str(raised.value)
    assert f"{sentinels[1]} knows no 'another'" in str(raised.value)


@pytest.mark.parametrize("address", ["", "a:b", "redis://h:1", "h:1/0", ":1"])
async def test_an_address_of_a_sentinel_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(CompositionError, match=r"^sentinels\[0\]: "):
        RedisStore(RedisConfig(url=secret("redis://primary/0"), sentinels=(address,)))
    with pytest.raises(CompositionError, match=r"^url: .*a socket has none"):
        RedisStore(RedisConfig(url=secret("unix:///path"), sentinels=("h:1",)))
