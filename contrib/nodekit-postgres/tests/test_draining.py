"""A node that drains hands over all it has at once: no lease has to end for it."""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from postgres_server import Database

from nodekit import ClientLimits, JobId, JobStatus, Node, NodeLimits, Secret
from nodekit.testing import make_function_runner, make_node, make_request
from nodekit_postgres import PostgresConfig, PostgresStore

pytestmark = pytest.mark.anyio

SECONDS = 30.0
LEASE_SECONDS = 600.0
"""Longer than the test may take: what goes on in it was handed over."""
SLOTS = 4


class Here:
    """The containers of a node: `hold` returns when the node's gate is open, `note` at once. Calls are counted."""

    def __init__(self) -> None:
        self.calls = Counter[str]()
        self.gate = anyio.Event()

    async def hold(self, data: Any) -> Any:
        self.calls["hold"] += 1
        await self.gate.wait()
        return data

    async def note(self, data: Any) -> Any:
        self.calls["note"] += 1
        return data

    def node(self, database: Database, name: str, *, drain_seconds: float) -> Node:
        config = PostgresConfig(url=Secret(database.url), lease_seconds=LEASE_SECONDS, call_seconds=10)
        functions: dict[str, Callable[[Any], Awaitable[Any]]] = {"hold": self.hold, "note": self.note}
        limits = NodeLimits(concurrency=SLOTS, each_client=ClientLimits(concurrency=SLOTS), drain_seconds=drain_seconds)
        store = PostgresStore(config)
        return make_node(store=store, runners=[make_function_runner(functions=functions)], limits=limits, name=name)

    async def full(self) -> None:
        """Wait until all slots hold a job."""
        with anyio.fail_after(SECONDS):
            while self.calls["hold"] < SLOTS:
                await anyio.sleep(0.01)


async def queue(node: Node) -> list[JobId]:
    """Submit three times as many jobs as there are slots."""
    return [(await node.submit(make_request("hold", "note"))).id for _ in range(3 * SLOTS)]


async def ended(node: Node, ids: list[JobId]) -> None:
    with anyio.fail_after(SECONDS):
        jobs = await node.wait(ids)
    assert {job.status for job in jobs} == {JobStatus.SUCCESS}


async def is_refused(node: Node) -> None:
    """Wait until a node takes no jobs any more."""
    with anyio.fail_after(SECONDS):
        while (await node.health()).healthy:
            await anyio.sleep(0.01)


async def takeovers(node: Node) -> int:
    return sum(member.announcement.takeovers for member in await node.members())


async def test_steps_that_end_meanwhile_go_on_elsewhere_and_none_is_called_twice(database: Database) -> None:
    old, new = Here(), Here()
    async with new.node(database, "new", drain_seconds=0) as staying:
        async with old.node(database, "old", drain_seconds=60) as leaving:
            ids = await queue(leaving)
            await old.full()
            await new.full()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(leaving.drain)
                await is_refused(leaving)
                new.gate.set()
                with anyio.fail_after(SECONDS):
                    while (await staying.pending()).total > SLOTS:  # the queue waits for nothing that still runs there
                        await anyio.sleep(0.01)
                old.gate.set()
                await ended(staying, ids)
        assert old.calls == {"hold": SLOTS}
        assert new.calls == {"hold": 2 * SLOTS, "note": 3 * SLOTS}
        assert await takeovers(staying) == 0


async def test_steps_that_take_longer_are_given_back_at_the_end(database: Database) -> None:
    old, new = Here(), Here()
    async with new.node(database, "new", drain_seconds=0) as staying:
        async with old.node(database, "old", drain_seconds=0) as leaving:
            ids = await queue(leaving)
            await old.full()
            await new.full()
        new.gate.set()
        await ended(staying, ids)
        assert old.calls == {"hold": SLOTS}
        assert new.calls == {"hold": 3 * SLOTS, "note": 3 * SLOTS}
        assert await takeovers(staying) == 0
