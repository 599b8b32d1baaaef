"""The clock of the server leaps while nodes work: leases hold, and those of dead nodes end."""

import anyio
import pytest
from leap import LEAP
from postgres_server import HOST, Database

from nodekit import JobQuery, Secret
from nodekit.testing import SEQUENCE, TcpProxy, make_job, succeeded
from nodekit_postgres import PostgresConfig, PostgresStore

pytestmark = pytest.mark.anyio
SECONDS = 60.0
HOUR = 3600


@pytest.mark.parametrize("seconds", [HOUR, -HOUR], ids=["ahead", "back"])
async def test_a_leap_of_the_clock_ends_no_lease_of_a_live_node_and_keeps_none_of_a_dead_one(
    database: Database, seconds: int
) -> None:
    def store_at(url: str) -> PostgresStore:
        return PostgresStore(PostgresConfig(url=Secret(url), lease_seconds=2.0, look_seconds=0.5))

    with TcpProxy(HOST, database.server.port) as proxy:
        async with store_at(database.url) as store, store_at(database.url_at(*proxy.address)) as dead:
            database.sql(f"SET ROLE {database.role}; {LEAP}")
            await store.add([first := make_job(), *(others := [make_job() for _ in range(2)])])
            [ended] = await store.claim(["echo"], SEQUENCE, 1)
            await store.save(ended, succeeded(first))
            [kept] = await store.claim(["echo"], SEQUENCE, 1)
            [taken] = await dead.claim(["echo"], SEQUENCE, 1)
            await anyio.sleep(1.5 * store.lease_seconds)  # who was steady for a lease takes over
            proxy.hang()
            database.sql(f"UPDATE nodekit.leap SET seconds = {seconds};")
            with anyio.fail_after(SECONDS):
                [again] = await store.claim(["echo"], SEQUENCE, 1)
            assert (again.job.id, again.takeovers) == (taken.job.id, 1)
            assert not kept.scope.cancel_called
            for claim in (kept, again):
                await store.save(claim, succeeded(claim.job))
            assert await store.find(JobQuery(order="finished")) == [first.id, *(job.id for job in others)]
            proxy.heal()
