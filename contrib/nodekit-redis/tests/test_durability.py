"""The loss that `durability` accepts, on a disk that loses what was not synced."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from redis_server import RedisServer, waited
from slow_disk import SlowDisk
from stores import store_on

from nodekit import StoreFailed
from nodekit.testing import make_job, make_node, make_request

pytestmark = pytest.mark.anyio
SECONDS = 60.0


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    disk = SlowDisk(tmp_path, monkeypatch)
    disk.enter()
    return disk


@contextmanager
def running(redis_server: RedisServer, *settings: str) -> Iterator[RedisServer]:
    """Run another server than that of all tests, on the slow disk. (That one shows that there is a Redis.)"""
    with RedisServer(*settings) as server:
        yield server


async def power_returns(disk: SlowDisk, server: RedisServer) -> None:
    await anyio.to_thread.run_sync(disk.lose_power, server)
    await anyio.to_thread.run_sync(server.start)


async def test_always_acknowledges_nothing_that_is_not_on_the_disk(disk: SlowDisk, redis_server: RedisServer) -> None:
    with running(redis_server) as server:
        async with store_on(server, call_seconds=1.0) as store:
            kept = [(await store.add([make_job()]))[0] for _ in range(20)]
            disk.hold()
            with pytest.raises(StoreFailed):
                await store.add([make_job()])
            await power_returns(disk, server)
        async with store_on(server) as store:
            assert await store.get([job.id for job in kept]) == kept


async def test_everysec_loses_what_it_acknowledged_since_the_last_sync_and_nothing_else(
    disk: SlowDisk, redis_server: RedisServer
) -> None:
    with running(redis_server, "appendfsync everysec") as server:
        async with store_on(server, durability="everysec") as store:
            kept = [(await store.add([make_job()]))[0] for _ in range(20)]
        assert waited(lambda: disk.is_synced(server))
        disk.hold()
        async with store_on(server, durability="everysec") as store:
            late = [(await store.add([make_job()]))[0] for _ in range(20)]
            await power_returns(disk, server)
        async with store_on(server, durability="everysec") as store:
            assert await store.get([job.id for job in kept]) == kept
            assert await store.get([job.id for job in late]) == [], "the machine had not written them"


async def test_everysec_loses_nothing_if_redis_alone_is_killed(redis_server: RedisServer) -> None:
    with RedisServer("appendfsync everysec") as server:
        async with store_on(server, durability="everysec") as store:
            kept = [(await store.add([make_job()]))[0] for _ in range(20)]
            server.kill()
        await anyio.to_thread.run_sync(server.start)
        async with store_on(server, durability="everysec") as store:
            assert await store.get([job.id for job in kept]) == kept


async def test_none_loses_everything_and_the_nodes_that_saw_it_say_so(redis_server: RedisServer) -> None:
    with RedisServer("appendonly no") as server:
        store: Any = store_on(server, durability="none")
        async with make_node(store=store) as node:
            job = await node.submit(make_request("echo"))
            await node.wait([job.id])
            await anyio.to_thread.run_sync(server.kill)
            await anyio.to_thread.run_sync(server.start)
            with anyio.fail_after(SECONDS):
                while "lost in a restart" not in " ".join((await node.health()).reasons):
                    await anyio.sleep(0.05)
                assert await node.fetch([job.id]) == []
                again = await node.submit(make_request("echo"))
                await node.wait([again.id])
