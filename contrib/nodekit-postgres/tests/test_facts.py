"""The facts about the engine, for operators."""

import anyio
import anyio.to_thread
import psycopg
import pytest
from postgres_server import Database

from nodekit import Secret, StoreFailed
from nodekit.testing import SEQUENCE, make_job, make_node, succeeded, with_output
from nodekit_postgres import PostgresConfig, PostgresStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(database: Database) -> PostgresStore:
    return PostgresStore(PostgresConfig(url=Secret(database.url)))


async def test_facts_are_known_of_a_store_that_is_not_entered_and_of_one_without_tables(
    store: PostgresStore, database: Database
) -> None:
    before = await store.facts()
    assert (before["database"], before["schema"], before["schema_version"]) == (database.name, "nodekit", 0)
    async with store:
        await store.add([make_job() for _ in range(20)])
        assert int((await store.facts())["used_bytes"]) > 0
    assert int((await store.facts())["connections"]) >= 1


async def test_most_updates_leave_the_indexes_alone(store: PostgresStore, database: Database) -> None:
    """A heap-only update writes no index: steps and counts are such; a claim and the end of a job cannot be."""
    jobs = 200
    async with store:
        for _ in range(jobs):
            await store.add([job := make_job("echo", "reverse")])
            [claim] = await store.claim(["echo"], SEQUENCE, 1)
            await store.save(claim, begun := with_output(job, due="reverse"))
            await store.save(claim, succeeded(with_output(begun)))
    rows = "SELECT relname, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE schemaname = 'nodekit'"
    with anyio.fail_after(60):
        while (updates := table(database, rows)).get("jobs", (0, 0))[0] < 2 * jobs:
            await anyio.sleep(0.1)
    share = {name: hot / number for name, (number, hot) in updates.items() if number >= jobs}
    assert share["jobs"] >= 0.45, updates  # its step, and not its end
    assert share["counts"] >= 0.9, updates
    assert share["totals"] >= 0.9, updates
    assert share["rotations"] >= 0.9, updates
    assert share["live"] >= 0.4, updates  # its step, and not its claim
    assert sum(number for number, _ in updates.values()) <= 9.5 * jobs, updates
    assert int((await store.facts())["hot_updates_percent"]) >= 70


def table(database: Database, query: str) -> dict[str, tuple[int, int]]:
    rows = [line.split("|") for line in database.sql(query).splitlines()]
    return {name: (int(number), int(hot)) for name, number, hot in rows}


async def test_a_command_that_looks_at_the_store_is_no_node(store: PostgresStore, database: Database) -> None:
    async with make_node(store=PostgresStore(PostgresConfig(url=Secret(database.url)))), store:
        with anyio.fail_after(60):
            while not (await store.facts())["nodes"]:
                await anyio.sleep(0.02)
        assert (await store.facts())["nodes"] == 1


async def test_a_transaction_that_stays_open_and_what_waits_for_it_are_seen(
    store: PostgresStore, database: Database
) -> None:
    async with store:
        await store.add([make_job()])
    with psycopg.connect(database.url) as holder:
        holder.execute("LOCK TABLE nodekit.jobs")

        def wait() -> None:
            with psycopg.connect(database.url) as waiter:
                waiter.execute("SELECT count(*) FROM nodekit.jobs")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, wait)
            try:
                with anyio.fail_after(60):
                    while not (await store.facts())["waiting_locks"]:
                        await anyio.sleep(0.02)
                    while not (await store.facts())["oldest_transaction_seconds"]:
                        await anyio.sleep(0.1)
                assert str((await store.facts())["attention"]).startswith("somebody has locked a table")
            finally:
                holder.rollback()
    assert (await store.facts())["waiting_locks"] == 0


async def test_dead_rows_are_counted_and_tables_with_more_dead_than_live_ones_are_named(
    store: PostgresStore, database: Database
) -> None:
    async with store:
        pass
    database.sql("ALTER TABLE nodekit.records SET (autovacuum_enabled = false);")
    rows = "INSERT INTO nodekit.records SELECT '\\x00', n, '', NULL FROM generate_series(1, 1500) AS n;"
    database.sql(f"{rows} DELETE FROM nodekit.records;")
    with anyio.fail_after(60):
        while (await store.facts())["bloated_tables"] != "records":
            await anyio.sleep(0.1)
    assert int((await store.facts())["dead_rows"]) >= 1500


async def test_only_a_role_that_may_monitor_sees_replicas(store: PostgresStore, database: Database) -> None:
    assert (await store.facts())["replicas"] == "unknown: grant pg_monitor"
    database.sql(f"GRANT pg_monitor TO {database.role};")
    found = await store.facts()
    assert (found["replicas"], found["replication_lag_bytes"]) == (0, 0)


async def test_an_engine_that_does_not_run_is_a_failure_in_words(store: PostgresStore, database: Database) -> None:
    database.server.kill()
    with pytest.raises(StoreFailed, match="cannot reach PostgreSQL"):
        await store.facts()
