"""The store on a real PostgreSQL: addresses, versions, texts, poolers, and what a job costs."""

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import anyio
import psycopg
import pytest
from pgbouncer_server import PgBouncer
from postgres_server import Database

from nodekit import (
    ClaimLost,
    CompositionError,
    ContainerError,
    JobQuery,
    JobStatus,
    NodeFile,
    Outcome,
    Secret,
    StoreFailed,
)
from nodekit.testing import SEQUENCE, TcpProxy, make_job, succeeded, with_output
from nodekit_postgres import PostgresConfig, PostgresStore, _client, _lines, provider
from nodekit_postgres._ear import Ear
from nodekit_postgres._work import Statement

pytestmark = pytest.mark.anyio
SOON = 30.0


def make_store(url: str, **settings: Any) -> PostgresStore:
    return PostgresStore(PostgresConfig(url=Secret(url), **{"lease_seconds": 5.0, **settings}))


async def run_a_job(one: PostgresStore, other: PostgresStore) -> None:
    """Run a job that one store adds and another one claims."""
    await one.add([make_job()])
    with anyio.fail_after(SOON):
        [claim] = await other.claim(["echo"], SEQUENCE, 1)
        await other.save(claim, succeeded(claim.job))
    assert await one.get([claim.job.id]) == [claim.job]


# -- addresses ----------------------------------------------------------------------------------------


async def test_a_unix_socket_and_several_hosts_are_addresses(database: Database) -> None:
    port = database.server.port
    several = f"host=127.0.0.1,127.0.0.1 port=1,{port} dbname={database.name} user={database.role}"
    several += f" password={database.password} target_session_attrs=read-write"
    async with make_store(database.socket_url) as one, make_store(several) as other:
        await run_a_job(one, other)


async def test_a_server_that_cannot_prove_who_it_is_is_refused(database: Database) -> None:
    url = database.url_at("127.0.0.1", database.server.port, sslmode="verify-full")
    with pytest.raises(StoreFailed, match="SSL"):
        async with make_store(url):
            pass


async def test_errors_do_not_show_the_password(database: Database) -> None:
    wrong = database.url.replace(database.password, "hunter2")
    with pytest.raises(StoreFailed, match="password authentication failed") as raised:
        async with make_store(wrong):
            pass
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("url", {"url": Secret("postgresql://a:secret@[")}),
        ("listen_url", {"url": Secret(""), "listen_url": Secret("secret")}),
        ("schema", {"url": Secret(""), "schema": 'a"b'}),
    ],
)
async def test_wrong_settings_are_problems_of_their_keys(key: str, settings: dict[str, Any], tmp_path: Any) -> None:
    with pytest.raises(CompositionError) as raised:
        provider.build(PostgresConfig(**settings), NodeFile(tmp_path / "node.toml", "n"))
    [problem] = raised.value.problems
    assert problem.where == key
    assert "secret" not in str(problem)


# -- versions -----------------------------------------------------------------------------------------


async def test_nodes_that_start_together_create_the_tables_once(database: Database) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(_visit, make_store(database.url))
    assert database.sql("SELECT count(*) FROM nodekit.about") == "1"


async def _visit(store: PostgresStore) -> None:
    async with store:
        await store.pending()


async def test_a_role_needs_no_more_than_its_schema(database: Database) -> None:
    database.sql(
        f"ALTER DATABASE {database.name} OWNER TO postgres; CREATE SCHEMA jobs AUTHORIZATION {database.role};"
        f"GRANT CONNECT ON DATABASE {database.name} TO {database.role};"
    )
    async with make_store(database.url, schema="jobs") as one, make_store(database.url, schema="jobs") as other:
        await run_a_job(one, other)
    with pytest.raises(StoreFailed, match="permission denied"):
        async with make_store(database.url, schema="other"):
            pass


async def test_a_node_leaves_the_tables_to_the_command(database: Database) -> None:
    store = make_store(database.url, migrate=False)
    with pytest.raises(StoreFailed, match="nodekit store migrate"):
        async with store:
            pass
    assert await store.migrate() == "the schema nodekit has version 1 now"
    async with store:
        await run_a_job(store, store)
    assert (await store.facts())["schema_version"] == 1


async def test_an_operator_creates_the_tables_and_looks_at_the_jobs(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[store]\nuse = "postgres"\nurl = { file = "url" }\n')
    (tmp_path / "url").write_text(database.url)

    async def said(*command: str) -> str:
        done = await anyio.run_process([sys.executable, "-m", "nodekit", *command])
        return done.stdout.decode()

    assert "the schema nodekit has version 1 now" in await said("store", "migrate", str(file))
    assert "so nothing was done" in await said("store", "migrate", str(file))
    async with make_store(database.url) as store:
        await run_a_job(store, store)
        [id] = await store.find(JobQuery())
    assert id in await said("store", "jobs", str(file))
    assert "schema version" in await said("store", "stats", str(file))
    await said("prune", str(file), "--older-than", "0s")
    assert id not in await said("store", "jobs", str(file))


async def test_tables_of_the_next_release_can_be_used_if_they_say_so(database: Database) -> None:
    async with make_store(database.url) as store:
        await store.pending()
    database.sql("UPDATE nodekit.about SET version = 2, oldest_node = 1")
    async with make_store(database.url) as store:
        await run_a_job(store, store)
    database.sql("UPDATE nodekit.about SET version = 3, oldest_node = 2")
    with pytest.raises(StoreFailed, match="upgrade nodekit-postgres"):
        async with make_store(database.url):
            pass


# -- jobs ---------------------------------------------------------------------------------------------


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


# -- poolers ------------------------------------------------------------------------------------------


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


# -- costs --------------------------------------------------------------------------------------------


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


async def test_claims_are_fenced_by_their_token(database: Database) -> None:
    async with make_store(database.url) as one, make_store(database.url) as other:
        await one.add([job := make_job("echo", "reverse")])
        [claim] = await one.claim(["echo"], SEQUENCE, 1)
        database.sql("UPDATE nodekit.live SET token = gen_random_uuid()")
        with pytest.raises(ClaimLost):
            await one.save(claim, succeeded(job))
        assert await other.get([job.id]) == [job]


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
