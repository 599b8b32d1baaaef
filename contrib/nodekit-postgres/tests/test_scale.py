"""Costs of calls on a schema with many jobs, counted by the server: pages of tables and indexes, not time."""

from collections.abc import Mapping
from contextlib import AsyncExitStack

import anyio
import pytest
from postgres_server import PostgresServer
from scale import Counted, costs, fill, store_at

from nodekit import Secret
from nodekit.testing import SEQUENCE, make_node
from nodekit_postgres import PostgresConfig, PostgresStore

pytestmark = pytest.mark.anyio
QUEUED, FINISHED = 20_000, 20_000
SLICE_PAGES, UNFINISHED_PAGES = 1500, 12_500
"""Pages of a search that looks at as many jobs as one page of it may."""
BATCH_PAGES = 20_000
"""Pages of 1,000 deleted jobs, which are taken out of each index."""
MORE = {"claim 64": 64 * 60, "queues, for operators": None}
"""Calls whose cost is that of more than one job; None: of all unfinished jobs."""


def most_pages(name: str) -> float:
    """Return how many pages a call may look at, however many jobs there are."""
    if name.startswith("retention by"):
        return BATCH_PAGES
    if name.startswith(("failed", "error", "finished")):
        return SLICE_PAGES
    if name.startswith("unfinished"):
        return UNFINISHED_PAGES
    return MORE.get(name, 150) or float("inf")


async def test_no_cost_grows_with_the_jobs_and_groups_are_served_in_turn(counting: PostgresServer) -> None:
    with counting.database() as database:
        async with store_at(database) as store:
            await fill(database, store, queued=QUEUED, finished=FINISHED)
            served = [(await store.claim(["echo"], SEQUENCE, 1))[0].job.client for _ in range(22)]
            assert sorted(served[:11]) == sorted({"crowd", *(f"other-{number}" for number in range(10))})
            assert served[11:] == served[:11]
            found = await costs(database, store, FINISHED)
    assert {name: cost for name, cost in found.items() if cost.pages > most_pages(name)} == {}
    assert found["save"].statements <= 2  # and a notification
    assert found["look for jobs, none"].log_bytes == 0


async def test_nodes_without_jobs_ask_as_often_as_their_leases_say(counting: PostgresServer) -> None:
    """Counted over renewals, so that a machine that stands still changes nothing."""
    with counting.database() as database:
        counted, settings = Counted(database), {"lease_seconds": 2.0, "look_seconds": 2.0}
        async with AsyncExitStack() as stack:
            for _ in range(3):
                store = PostgresStore(PostgresConfig(url=Secret(database.socket_url), **settings))
                await stack.enter_async_context(make_node(store=store))
            while not renewals(counted.statements()):
                await anyio.sleep(0.05)
            counted.begin()
            while (number := renewals(found := counted.statements())) < 4 * 4 * 3:  # four leases of three nodes
                await anyio.sleep(0.1)
    # In a lease, a node renews it and tests its ear four times, announces itself and reads its neighbours three times,
    # and looks twice for jobs and for expired ones, since each look is announced to nobody.
    assert sum(found.values()) <= number / 4 * (4 + 4 + 3 * 3 + 2 * 2) + 3 * 4, found


def renewals(found: Mapping[str, int]) -> int:
    return sum(number for query, number in found.items() if ".beat(" in query)
