"""Connections of a store to a real PostgreSQL: fenced claims, lost answers, frozen nodes, and the ear."""

import asyncio
import time
from typing import Any

import anyio
import psycopg
import pytest
from postgres_server import Database
from postgres_stores import SOON, make_store

from nodekit import ClaimLost, StoreFailed
from nodekit.testing import SEQUENCE, TcpProxy, make_job, succeeded, with_output
from nodekit_postgres import _lines
from nodekit_postgres._ear import Ear
from nodekit_postgres._work import Statement

pytestmark = pytest.mark.anyio


async def test_claims_are_fenced_by_their_token(database: Database) -> None:
    async with make_store(database.url) as one, make_store(database.url) as other:
        await one.add([job := make_job("echo", "reverse")])
        [claim] = await one.claim(["echo"], SEQUENCE, 1)
        database.sql("UPDATE nodekit.live SET token = gen_random_uuid()")
        with pytest.raises(ClaimLost):
            await one.save(claim, succeeded(job))
        assert await other.get([job.id]) == [job]


async def test_an_answer_that_came_long_ago_continues_no_job(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_store(database.url, lease_seconds=1.0) as store:
        await store.add([make_job("echo", "reverse")])
        [claim] = await store.claim(["echo"], SEQUENCE, 1)
        count = store.count

        async def stood_still(*arguments: Any) -> Any:
            answer = await count(*arguments)
            time.sleep(1.5)
            return answer

        monkeypatch.setattr(store, "count", stood_still)
        await store.save(claim, with_output(claim.job))
        assert claim.scope.cancel_called


async def test_a_claim_that_is_given_up_and_never_answered_is_given_back(database: Database) -> None:
    lock = "SELECT pg_advisory_xact_lock('nodekit.rotations'::regclass::oid::integer, 1)"
    with TcpProxy("127.0.0.1", database.server.port) as proxy:
        async with make_store(database.url_at(*proxy.address)) as far, make_store(database.url) as near:
            await near.add([job := make_job()])
            async with await psycopg.AsyncConnection.connect(database.url) as holding:
                await holding.execute(lock)  # as another node that claims at this moment
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(far.claim, ["echo"], SEQUENCE, 1)
                    while (
                        database.sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted") == "0"
                    ):
                        await anyio.sleep(0.01)
                    tasks.cancel_scope.cancel()
                proxy.cut_answers()
            while database.sql("SELECT count(*) FROM nodekit.live WHERE token IS NOT NULL") == "0":
                await anyio.sleep(0.01)
            proxy.heal()
            with anyio.fail_after(SOON):
                [claim] = await near.claim(["echo"], SEQUENCE, 1)
            assert (claim.job, claim.takeovers) == (job, 0)


async def test_a_node_that_stands_still_in_a_transaction_costs_no_other_node_its_lease(database: Database) -> None:
    """Its jobs are taken over but for those that its transaction holds, which are once that has ended."""
    lease = 2.0
    with TcpProxy("127.0.0.1", database.server.port) as proxy:
        far_url = database.url_at(*proxy.address)
        async with (
            make_store(far_url, lease_seconds=lease) as far,
            make_store(database.url, lease_seconds=lease) as near,
        ):
            await near.add([make_job("mine"), make_job("echo", id="1"), make_job("echo", id="2")])
            [mine] = await near.claim(["mine"], SEQUENCE, 1)
            await far.claim(["echo"], SEQUENCE, 2)
            async with await psycopg.AsyncConnection.connect(database.url) as transaction:
                await transaction.execute("SELECT FROM nodekit.live WHERE id = '1' FOR UPDATE")
                proxy.hang()
                with anyio.fail_after(SOON):
                    [claim] = await near.claim(["echo"], SEQUENCE, 1)
                    assert (claim.job.id, claim.takeovers) == ("2", 1)
                    beats = "SELECT max(lapses_at) FROM nodekit.sessions"
                    until = float(database.sql(beats)) + 2 * lease
                    while float(database.sql(beats)) < until:
                        await anyio.sleep(0.1)
                assert not mine.scope.cancel_called
            with anyio.fail_after(SOON):
                [claim] = await near.claim(["echo"], SEQUENCE, 1)
                assert (claim.job.id, claim.takeovers) == ("1", 1)
            proxy.heal()


async def test_a_transaction_whose_node_stands_still_is_ended_by_the_server(database: Database) -> None:
    async with make_store(database.url, lease_seconds=7.0, connections=1) as store:
        asked = Statement(b"SELECT current_setting('idle_in_transaction_session_timeout')", lambda number: {})
        found: list[Any] = []

        async def ask() -> None:
            found.extend(await store.writes.write(asked, SOON))

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(ask)
        assert ("7s",) in found  # those that shared a transaction


async def test_other_nodes_hear_of_jobs_with_any_names(database: Database) -> None:
    names = ["é\x00", "\U0001f600" * 200, *(f"{'x' * 300} {number:03}" for number in range(100))]
    async with make_store(database.url) as one, make_store(database.url) as other, one.changes() as changes:
        await other.add([make_job(name, id=name) for name in names])
        left = set(names)
        with anyio.fail_after(SOON):
            while left:
                change = await anext(changes)
                assert change is None or change.id in names
                left.discard(change.id if change else "")


async def test_locks_of_a_connection_that_carries_nothing_any_more_are_released(database: Database) -> None:
    """The server hears nothing of it, and would wait for the rest of the transaction."""

    async def call(connection: psycopg.AsyncConnection[Any], number: int) -> None:
        await connection.execute("BEGIN; SELECT pg_advisory_xact_lock(12345)")
        proxy.half_open()
        await connection.execute("COMMIT")

    with TcpProxy("127.0.0.1", database.server.port) as proxy:
        async with make_store(database.url_at(*proxy.address)) as store:
            with pytest.raises(StoreFailed):
                await store.writes.run(call, 0.5, kept=True)
            with anyio.fail_after(SOON):
                while database.sql("SELECT count(*) FROM pg_locks WHERE objid = 12345") != "0":
                    await anyio.sleep(0.02)


async def test_a_call_waits_for_an_attempt_to_connect_that_begins_after_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has come back while an attempt was under way that is going to fail."""
    began, may_fail, connect = asyncio.Event(), asyncio.Event(), _lines.connect

    async def connecting(url: str, seconds: float) -> _lines.Connection:
        if began.is_set():
            return await connect(url, seconds)
        began.set()
        await may_fail.wait()
        raise OSError("it was not there yet")

    async def call(connection: _lines.Connection, number: int) -> str:
        return "made"

    monkeypatch.setattr(_lines, "connect", connecting)
    lines = _lines.Lines(_lines.Server(database.url, 5.0), 1)
    async with anyio.create_task_group() as tasks:
        lines.start(tasks)
        await began.wait()
        made = asyncio.create_task(lines.run(call, 5.0))
        await asyncio.sleep(0)
        may_fail.set()
        try:
            assert await made == "made"
        finally:
            lines.close(at_once=True)


async def test_the_test_of_the_connection_that_listens_is_sent_again_if_it_could_not_be_sent(
    database: Database,
) -> None:
    """All connections break at once. That which listens may be back before the others, and then reports a problem."""
    sent: list[str] = []

    async def send(payload: str) -> None:
        sent.append(payload)
        if len(sent) == 1:
            raise StoreFailed("the connection to PostgreSQL is lost")
        await connection.execute("SELECT pg_notify('news', %s)", [payload])

    ear = Ear(
        database.url,
        "news",
        connect_seconds=5,
        beat_seconds=0.1,
        test=send,
        hear=lambda news: None,
        missed=lambda: None,
    )
    ear.problem = "the connection that listens is lost"
    async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as connection:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ear.run)
            with anyio.fail_after(SOON):
                while ear.problem:
                    await anyio.sleep(0.02)
            ear.close()
    assert len(sent) == 2
