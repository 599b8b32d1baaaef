"""Rows or tables that somebody deletes while nodes work on them."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from postgres_server import Database

from nodekit import ClaimLost, ClientLimits, JobId, JobStatus, Node, NodeLimits, Secret, StoreFailed
from nodekit.testing import make_function_runner, make_job, make_node, make_request, with_output
from nodekit_postgres import PostgresConfig, PostgresStore

pytestmark = pytest.mark.anyio
SECONDS = 60.0
TABLES = "jobs, records, live, rotations, counts, totals, sessions, members, plugin_records, about"


class Held:
    """A container whose calls never end by themselves."""

    def __init__(self) -> None:
        self.running = 0

    async def hold(self, data: Any) -> None:
        self.running += 1
        try:
            await anyio.sleep_forever()
        finally:
            self.running -= 1


def make_store(database: Database) -> PostgresStore:
    return PostgresStore(PostgresConfig(url=Secret(database.url), lease_seconds=2.0, look_seconds=0.5))


async def comes(holds: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(SECONDS):
        while not await holds():
            await anyio.sleep(0.02)


async def says(node: Node, words: str) -> bool:
    return words in " ".join((await node.health()).reasons)


async def runs_a_job(node: Node) -> JobId:
    job = await node.submit(make_request("echo", client="alice"))
    with anyio.fail_after(SECONDS):
        [done] = await node.wait([job.id])
    assert done.status is JobStatus.SUCCESS
    return job.id


@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM nodekit.jobs;", f"TRUNCATE nodekit.{TABLES.replace(', ', ', nodekit.')};"],
    ids=["jobs", "all rows"],
)
async def test_deleted_jobs_are_unknown_and_a_reason_in_health_and_new_jobs_run(
    database: Database, statement: str
) -> None:
    store, held = make_store(database), Held()
    runner = make_function_runner(functions={"hold": held.hold})
    limits = NodeLimits(concurrency=2, each_client=ClientLimits(concurrency=2), drain_seconds=0)
    async with make_node(store=store, runners=[runner], limits=limits) as node:
        ended = await runs_a_job(node)
        running = [(await node.submit(make_request("hold", client="alice"))).id for _ in range(2)]
        waiting = [(await node.submit(make_request("echo", client="alice"))).id for _ in range(5)]

        async def both_run() -> bool:
            return held.running == 2

        async def nothing_is_left() -> bool:
            return not held.running and not node.in_flight and (await node.pending(["alice"])).total == 0

        await comes(both_run)
        database.sql(statement)
        await comes(lambda: says(node, "jobs were deleted from the tables while nodes worked on them"))
        await comes(nothing_is_left)
        assert await node.fetch([ended, *running, *waiting]) == []
        assert await node.cancel(running[0]) is None
        await runs_a_job(node)
        assert not await store.queues()
        assert (await node.health()).healthy


async def test_a_save_after_its_job_was_deleted_keeps_nothing(database: Database) -> None:
    async with make_store(database) as store:
        await store.add([make_job()])
        [claim] = await store.claim(["echo"], None, 1)
        database.sql("DELETE FROM nodekit.jobs; DELETE FROM nodekit.records;")
        with pytest.raises(ClaimLost):
            await store.save(claim, with_output(claim.job))
        assert database.sql("SELECT count(*) FROM nodekit.records;") == "0"


async def test_a_schema_that_was_dropped_is_told_with_the_cure_and_nodes_go_on_with_a_new_one(
    database: Database,
) -> None:
    store = make_store(database)
    async with make_node(store=store, limits=NodeLimits(drain_seconds=0)) as node:
        before = await runs_a_job(node)
        database.sql("DROP SCHEMA nodekit CASCADE;")
        with pytest.raises(StoreFailed, match="nodekit store migrate"):
            await node.submit(make_request("echo"))
        health = await node.health()
        assert not health.healthy
        assert "nodekit store migrate" in " ".join(health.reasons)
        await make_store(database).migrate()

        async def is_healthy() -> bool:
            return (await node.health()).healthy

        await comes(is_healthy)
        await comes(lambda: says(node, "jobs were deleted from the tables"))
        assert await node.fetch([before]) == []
        await runs_a_job(node)
    database.sql("DELETE FROM nodekit.about;")
    with pytest.raises(StoreFailed, match="without a version"):
        await store.migrate()
