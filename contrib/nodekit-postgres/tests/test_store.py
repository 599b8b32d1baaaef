"""The store on a real PostgreSQL: texts, the order of finished jobs, counts, and poolers."""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import anyio
import psycopg
import pytest
from pgbouncer_server import PgBouncer
from postgres_server import Database
from postgres_stores import SOON, make_store, run_a_job

from nodekit import ContainerError, JobQuery, JobStatus, Outcome, Secret
from nodekit.testing import SEQUENCE, make_job, succeeded
from nodekit_postgres import PostgresStore, _client

pytestmark = pytest.mark.anyio


async def test_texts_of_others_may_hold_anything(database: Database) -> None:
    strange = "a\x00'\"\\%_{}\u2028\U0001f600"
    error = ContainerError(container="echo", error=strange)
    async with make_store(database.url) as store:
        job = make_job(client=strange, idempotency_key=strange, data={"x": strange})
        await store.add([job])
        [claim] = await store.claim(["echo"], SEQUENCE, 1)
        assert claim.job == job
        await store.save(claim, job.finished(Outcome(JobStatus.FAILED, error), 1.0))
        assert await store.find(JobQuery(client=strange, error="\x00'", idempotency_key=strange)) == [job.id]
        assert [kept.error for kept in await store.get([job.id])] == [error]


async def test_the_order_of_finished_jobs_waits_for_transactions_that_may_come_before(database: Database) -> None:
    finished = JobQuery(order="finished")
    async with make_store(database.url) as store:
        await run_a_job(store, store)
        [first] = await store.find(finished)
        async with await psycopg.AsyncConnection.connect(database.url) as slow:
            await slow.execute("SELECT pg_current_xact_id()")  # as a node's transaction that is not committed yet
            await run_a_job(store, store)
            assert await store.find(finished) == [first]
        with anyio.fail_after(SOON):
            while len(await store.find(finished)) < 2:
                await anyio.sleep(0.01)


async def test_calls_that_are_cancelled_at_any_moment_leave_no_connection_out_of_step(database: Database) -> None:
    chance = Random(5)
    async with make_store(database.url, connections=2, read_connections=1) as store:
        jobs = [make_job() for _ in range(5)]
        await store.add(jobs)
        ids = [job.id for job in jobs]
        calls: list[Callable[[], Any]] = [
            lambda: store.get(ids),
            lambda: store.find(JobQuery()),
            lambda: store.claim(["echo"], SEQUENCE, 1),
            lambda: store.add([make_job("other")]),
            lambda: store.pending(["alice"]),
        ]
        for _ in range(150):
            task = asyncio.create_task(chance.choice(calls)())
            await asyncio.sleep(chance.choice((0, 0.0005, 0.002, 0.005)))
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled() and isinstance(got := task.result(), list) and got and hasattr(got[0], "scope"):
                await store.release(got[0], got[0].job)
        with anyio.fail_after(SOON):
            left = {claim.job.id for claim in await store.claim(["echo"], SEQUENCE, 5)}
            while left != set(ids):
                left |= {claim.job.id for claim in await store.claim(["echo"], SEQUENCE, 5)}
        assert [job.id for job in await store.get(ids)] == ids


async def test_counts_of_clients_that_have_gone_are_deleted(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_client, "FORGET_SECONDS", 0.05)
    monkeypatch.setattr(_client, "GROUPS_AT_ONCE", 4)
    async with make_store(database.url) as one, make_store(database.url) as other:
        gone = [make_job("slow", client=f"client-{number}") for number in range(10)]
        await one.add([*gone, stays := make_job("echo", client="client-5-stays")])
        for claim in await other.claim(["slow"], SEQUENCE, 10):
            await other.save(claim, succeeded(claim.job))
        with anyio.fail_after(SOON):
            while database.sql("SELECT string_agg(grp, ',') FROM nodekit.counts") != r"\x" + b"client-5-stays".hex():
                await anyio.sleep(0.02)
        assert (await one.pending(["client-5-stays", "client-1"])).groups == {"client-5-stays": 1}
        await one.add([make_job("slow", client="client-1")])  # one that comes back
        assert (await one.pending(["client-1"])).groups == {"client-1": 1}
        [claim] = await one.claim(["echo"], SEQUENCE, 1)
        await one.save(claim, succeeded(stays))
        assert (await other.pending(["client-5-stays"])).groups == {}


async def test_counts_that_change_while_they_are_deleted_stay_true(database: Database) -> None:
    jobs = [make_job(client=f"client-{number % 3}") for number in range(60)]
    async with make_store(database.url) as one, make_store(database.url) as other:

        async def forget() -> None:
            while True:
                await other.write("SELECT nodekit.forget_groups('', 100)", [])

        async def work(store: PostgresStore, some: list[Any]) -> None:
            for job in some:
                await store.add([job])
                for claim in await store.claim(["echo"], SEQUENCE, 1):
                    await store.save(claim, succeeded(claim.job))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(forget)
            async with anyio.create_task_group() as working:
                working.start_soon(work, one, jobs[::2])
                working.start_soon(work, other, jobs[1::2])
            tasks.cancel_scope.cancel()
        pending = await one.pending(["client-0", "client-1", "client-2"])
        assert (pending.total, pending.groups) == (0, {})


# -- poolers ----------------------------------------------------------------------------------------


async def test_behind_a_pooler_a_store_looks_for_jobs_and_says_so(pooler: PgBouncer) -> None:
    async with make_store(pooler.url) as one, make_store(pooler.url) as other:
        assert "listen_url" in "".join(one.nodekit_problems())
        for _ in range(3):
            await run_a_job(one, other)
        records = one.storage("plugin")
        await records.put("key", b"value")


async def test_a_connection_that_listens_may_pass_by_the_pooler(pooler: PgBouncer, database: Database) -> None:
    listening = {"listen_url": Secret(database.url), "look_seconds": 60.0}
    async with make_store(pooler.url, **listening) as one, make_store(pooler.url, **listening) as other:
        assert (one.nodekit_problems(), other.nodekit_problems()) == ([], [])
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(run_a_job, one, other)
