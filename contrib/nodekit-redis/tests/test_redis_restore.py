"""A dump of a server under work is loaded by another one, and nodes go on there."""

import shutil
from pathlib import Path
from typing import Any

import anyio
import pytest
from leaping_clock import LeapingClock
from redis_server import RedisServer, waited
from stores import store_on

from nodekit import JobQuery, JobStatus, NodeLimits
from nodekit.testing import make_function_runner, make_node, make_request

pytestmark = pytest.mark.anyio
SECONDS = 60.0
HOUR = 3600


class Gate:
    """A container whose calls end when it is opened."""

    def __init__(self) -> None:
        self.opened, self.called, self.calls = anyio.Event(), anyio.Event(), 0

    async def pass_through(self, data: Any) -> Any:
        self.calls += 1
        self.called.set()
        await self.opened.wait()
        return data


async def test_nodes_go_on_with_a_dump_on_another_server_and_what_came_after_it_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer
) -> None:
    ended, gate = JobQuery(order="finished"), Gate()
    runner = make_function_runner(functions={"gate": gate.pass_through})
    store, limits = store_on(redis_server), NodeLimits(drain_seconds=0)
    async with make_node(store=store, runners=[runner], limits=limits) as node:
        done = await node.wait([(await node.submit(make_request("echo"))).id for _ in range(3)])
        kept = (await node.submit(make_request("echo", "gate", idempotency_key="kept"))).id
        with anyio.fail_after(SECONDS):
            await gate.called.wait()
        order = await store.find(ended)
        assert redis_server.call("SAVE") == b"+OK\r\n"
        shutil.copy(redis_server.folder / "dump.rdb", tmp_path)
        late = (await node.submit(make_request("echo", idempotency_key="late"))).id
        await node.wait([late])

    LeapingClock(tmp_path, monkeypatch).leap(-HOUR)
    with RedisServer(f"dir {tmp_path}", "appendonly no") as server:
        assert server.call("CONFIG", "SET", "appendonly", "yes") == b"+OK\r\n"
        assert waited(lambda: b"aof_rewrite_in_progress:0" in server.call("INFO", "persistence"))
        gate.opened.set()
        store = store_on(server)
        async with make_node(store=store, runners=[runner]) as node:
            assert await node.fetch([job.id for job in done]) == done
            assert await store.find(ended) == order
            assert await node.fetch([late]) == []
            assert (await node.submit(make_request("echo", "gate", idempotency_key="kept"))).id == kept
            again = (await node.submit(make_request("echo", idempotency_key="late"))).id
            assert again != late
            with anyio.fail_after(SECONDS):
                jobs = await node.wait([kept, again])
            assert {job.status for job in jobs} == {JobStatus.SUCCESS}
            assert gate.calls == 2
            after = await store.find(ended)
            assert after[:3] == order
            assert sorted(after[3:]) == sorted([kept, again])
