"""The state of a store, as plugins that watch a node read it."""

from pathlib import Path

import anyio
import pytest
from components import Gate, functions, make_node, until

from nodekit import DiskSpace, StoreFailed, StoreState
from nodekit.testing import Faults, make_request
from nodekit_memory import MemoryStore
from nodekit_sqlite import SqliteStore

pytestmark = pytest.mark.anyio


async def test_it_has_the_queued_jobs_by_container_and_how_long_they_wait() -> None:
    gate = Gate()
    async with make_node(functions(gate=gate), concurrency=1, drain_seconds=0) as node:
        assert await node.store_state() == StoreState({})
        for _ in range(3):
            await node.submit(make_request("gate"))
        await until(lambda: node.in_flight == 1)
        first = await node.store_state()
        assert first.queues is not None
        assert first.queues["gate"].jobs == 2
        await anyio.sleep(0.01)
        second = await node.store_state()
        assert second.queues is not None
        assert second.queues["gate"].oldest_seconds > first.queues["gate"].oldest_seconds


async def test_a_store_that_fails_to_say_something_says_the_rest(tmp_path: Path) -> None:
    faults = Faults()
    async with make_node(store=faults.around(SqliteStore(tmp_path / "jobs.db"))) as node:
        whole = await node.store_state()
        assert whole.disk is not None
        faults.before("queues").fail(StoreFailed("the engine is gone"))
        assert (await node.store_state()).queues is None
        assert (await node.store_state()).disk is not None
        faults.lift()


async def test_a_store_in_memory_is_on_no_disk() -> None:
    async with make_node(store=MemoryStore()) as node:
        assert (await node.store_state()).disk is None


async def test_the_size_of_a_file_has_all_its_parts_and_one_that_is_gone_is_not_known(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    store = SqliteStore(path)
    async with make_node(store=store) as node:
        await node.wait([(await node.submit(make_request("echo", data={"x": "x" * 100_000}))).id])
        sizes = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
        assert set(sizes) == {"jobs.db", "jobs.db-wal", "jobs.db-shm"}
        disk = await store.disk()
        assert isinstance(disk, DiskSpace)
        assert disk.used_bytes == sum(sizes.values())
        assert disk.free_bytes > 0
    with pytest.raises(StoreFailed, match="is not known"):
        await SqliteStore(tmp_path / "gone" / "jobs.db").disk()
