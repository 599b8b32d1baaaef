"""The cost of a job on a real PostgreSQL, and of an idle store."""

import time
from contextlib import AsyncExitStack
from typing import Any

import anyio
import psycopg
import pytest
from msgspec.structs import replace
from postgres_server import Database
from postgres_stores import SOON, make_store

from nodekit.testing import SEQUENCE, make_job, succeeded, with_output
from nodekit_postgres import PostgresStore

pytestmark = pytest.mark.anyio


class Costs:
    """Counts of what was executed, committed and logged since this was made."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.statements = 0
        self._database = database
        execute = psycopg.AsyncConnection.execute

        async def counted(connection: Any, *args: Any, **options: Any) -> Any:
            self.statements += 1
            return await execute(connection, *args, **options)

        monkeypatch.setattr(psycopg.AsyncConnection, "execute", counted)
        self.begin()

    def begin(self) -> None:
        self.statements = 0
        self._transactions, self._bytes = self._written()

    def _written(self) -> tuple[int, int]:
        query = "SELECT pg_snapshot_xmax(pg_current_snapshot()), pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"
        transactions, size = self._database.sql(query).split("|")
        return int(transactions), int(size)

    def per(self, jobs: int) -> tuple[float, float, float]:
        """Return statements, transactions that wrote, and bytes of the log, for each of so many jobs."""
        transactions, size = self._written()
        return self.statements / jobs, (transactions - self._transactions) / jobs, (size - self._bytes) / jobs


async def test_what_a_job_of_two_steps_costs(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    database.sql("ALTER SYSTEM SET full_page_writes = off; SELECT pg_reload_conf();")
    try:
        async with make_store(database.url, lease_seconds=60.0) as store:
            costs = Costs(database, monkeypatch)
            for jobs in (10, 50):
                costs.begin()
                for _ in range(jobs):
                    await store.add([job := make_job("echo", "reverse")])
                    [claim] = await store.claim(["echo"], SEQUENCE, 1)
                    await store.save(claim, begun := with_output(job, due="reverse"))
                    await store.save(claim, succeeded(with_output(begun)))
            statements, transactions, size = costs.per(50)
            assert 4 <= statements <= 8  # the calls, and at most a notification after each write
            assert 4 <= transactions <= 8
            assert size <= 6000

            costs.begin()
            await store.add(batch := [make_job("echo", "reverse") for _ in range(100)])
            claims = await store.claim(["echo"], SEQUENCE, 100)
            async with anyio.create_task_group() as tasks:
                for claim in claims:
                    tasks.start_soon(store.save, claim, succeeded(with_output(claim.job)))
            statements, transactions, _ = costs.per(len(batch))
            assert statements <= 2
            assert transactions <= 0.5  # saves that wait together share a commit
    finally:
        database.sql("ALTER SYSTEM RESET full_page_writes; SELECT pg_reload_conf();")


async def test_news_of_a_job_wake_only_those_that_can_run_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    async with make_store(database.url) as one, make_store(database.url, look_seconds=60.0) as other:
        look = other._look

        async def counted(query: str, *arguments: Any) -> Any:
            looks.append(query)
            return await look(query, *arguments)

        monkeypatch.setattr(other, "_look", counted)
        claims: list[Any] = []

        async def claim() -> None:
            claims.extend(await other.claim(["other"], SEQUENCE, 1))
            tasks.cancel_scope.cancel()

        with anyio.fail_after(SOON):
            async with other.changes() as changes, anyio.create_task_group() as tasks:
                tasks.start_soon(claim)
                tasks.start_soon(other.claim_expired, 1)
                while len(looks) < 2:
                    await anyio.sleep(0.01)
                await one.add([replace(make_job("echo"), timeout_seconds=3600.0)])
                await anext(changes)  # the news of that job are here
                await one.add([job := make_job("other")])
                await anyio.sleep_forever()
    assert [claim.job.id for claim in claims] == [job.id]
    assert len(looks) == 3, looks


async def test_a_job_that_comes_alone_to_idle_nodes_costs_one_look(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodekit.shared.waiting.OWN_SECONDS", 600.0)  # however busy this machine is
    looks, expected = [0, 0, 0], [1, 1, 1]
    stores = [make_store(database.url, lease_seconds=60.0, look_seconds=600.0) for _ in looks]

    async def all_have_looked() -> None:
        while looks != expected:
            assert all(seen <= most for seen, most in zip(looks, expected, strict=True)), (looks, expected)
            await anyio.sleep(0.01)

    async def work(number: int, store: PostgresStore) -> None:
        look = store._look

        async def counted(query: str, given: Any) -> Any:
            answer = await look(query, given)
            looks[number] += 1
            return answer

        monkeypatch.setattr(store, "_look", counted)
        while True:
            [claim] = await store.claim(["echo"], SEQUENCE, 1)
            await store.save(claim, succeeded(claim.job))

    with anyio.fail_after(SOON):
        async with AsyncExitStack() as stack:
            for store in stores:
                await stack.enter_async_context(store)
            tasks = await stack.enter_async_context(anyio.create_task_group())
            for number, store in enumerate(stores):
                tasks.start_soon(work, number, store)
            await all_have_looked()
            for number in 3 * (0, 1, 2):
                expected[number] += 2  # the look that takes the job, and that of the next claim
                await stores[number].add([make_job("echo")])
                await all_have_looked()
            tasks.cancel_scope.cancel()


async def test_an_idle_store_asks_little(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    async with make_store(database.url, lease_seconds=4.0, look_seconds=1.0) as store:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.claim, ["echo"], SEQUENCE, 1)
            tasks.start_soon(store.claim_expired, 1)
            await anyio.sleep(0.5)
            costs, began = Costs(database, monkeypatch), time.monotonic()
            await anyio.sleep(2.5)
            passed, statements = time.monotonic() - began, costs.statements
            tasks.cancel_scope.cancel()
    assert 1 <= statements <= 4 * passed + 4  # a renewal, a sign of life of the ear and two looks, each each second
