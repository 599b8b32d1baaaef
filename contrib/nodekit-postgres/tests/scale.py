"""Costs of calls on a schema with many jobs, which `python contrib/nodekit-postgres/tests/scale.py` prints.

They are counted by the server (`pg_stat_statements`): statements, pages of tables and indexes that were looked at,
and bytes of its log. They are the same on a busy machine; only the milliseconds are not.
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, NamedTuple

from postgres_server import Database, NoPostgres, PostgresServer

from nodekit import UNFINISHED, ContainerError, JobQuery, JobStatus, Outcome, Secret
from nodekit.testing import SEQUENCE, make_job, make_node, succeeded
from nodekit_postgres import PostgresConfig, PostgresStore
from nodekit_postgres._reading import named
from nodekit_postgres._store import CLAIM

COUNTING = {"shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.track_utility": "off"}
SUMS = """
    SELECT coalesce(sum(calls), 0), coalesce(sum(shared_blks_hit + shared_blks_read), 0),
        coalesce(sum(wal_bytes), 0), coalesce(sum(total_exec_time), 0)
    FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid JOIN pg_roles r ON r.oid = s.userid
    WHERE datname = current_database() AND rolname = '{role}' AND query NOT LIKE '%begin_session%'
"""
STATEMENTS = r"""
    SELECT calls, translate(query, E'|\n', '  ') FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid
    WHERE rolname = '{role}' ORDER BY calls DESC
"""
RARE = 1000
"""One finished job of so many has failed."""
FILL = """
    UPDATE nodekit.about SET finish_base = 1000000000;
    INSERT INTO nodekit.jobs (id, client, status, revision, steps, size, state, request)
        SELECT convert_to('02-' || lpad(n::text, 10, '0'), 'UTF8'), t.client, t.status, 0, 0, t.size, t.state, t.request
        FROM nodekit.jobs t, generate_series(1, {queued}) AS n WHERE t.id = 'queued';
    INSERT INTO nodekit.records (job, number, outline, output)
        SELECT convert_to('02-' || lpad(n::text, 10, '0'), 'UTF8'), 0, outline, output
        FROM nodekit.records, generate_series(1, {queued}) AS n WHERE job = 'queued' AND number = 0;
    INSERT INTO nodekit.live (id, due, pipeline, priority, grp, ready, streams, onchain, created_at, due_at, next_due,
            ended_steps)
        SELECT convert_to('02-' || lpad(n::text, 10, '0'), 'UTF8'), due, pipeline, priority, grp, ready, streams,
            onchain, created_at, due_at, next_due, ended_steps
        FROM nodekit.live, generate_series(1, {queued}) AS n WHERE id = 'queued';
    UPDATE nodekit.counts SET jobs = jobs + {queued} WHERE grp = 'crowd';
    UPDATE nodekit.totals SET offchain = offchain + {queued} WHERE shard = (SELECT min(shard) FROM nodekit.totals);
    INSERT INTO nodekit.jobs (id, client, status, revision, steps, size, state, request, finish_number, finished_at,
            error_container, error)
        SELECT convert_to('01-' || lpad(n::text, 10, '0'), 'UTF8'),
            CASE WHEN n % 10 = 0 THEN 'few' ELSE 'many' END::bytea, t.status, 2, t.steps, t.size, t.state, t.request,
            n, 1000000 + n, t.error_container, t.error
        FROM generate_series(1, {finished}) AS n
        JOIN nodekit.jobs t ON t.id = CASE WHEN n % {rare} = 0 THEN 'failed' ELSE 'done' END::bytea;
    INSERT INTO nodekit.records (job, number, outline, output)
        SELECT convert_to('01-' || lpad(n::text, 10, '0'), 'UTF8'), r.number, r.outline, r.output
        FROM generate_series(1, {finished}) AS n
        JOIN nodekit.records r ON r.job = CASE WHEN n % {rare} = 0 THEN 'failed' ELSE 'done' END::bytea;
    VACUUM ANALYZE nodekit.jobs, nodekit.records, nodekit.live, nodekit.counts;
"""


class Cost(NamedTuple):
    """The cost of a call: statements, pages looked at, bytes of the log, and milliseconds in the server."""

    statements: int
    pages: int
    log_bytes: int
    milliseconds: float


class Counted:
    """Counts what the role of a database has the server do."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.sql("CREATE EXTENSION IF NOT EXISTS pg_stat_statements;")

    def begin(self) -> None:
        self._database.sql("SELECT pg_stat_statements_reset();")

    def so_far(self) -> Cost:
        statements, pages, log, milliseconds = self._database.sql(SUMS.format(role=self._database.role)).split("|")
        return Cost(int(statements), int(pages), int(log), float(milliseconds))

    def statements(self) -> dict[str, int]:
        """Return how often each statement was made."""
        rows = self._database.sql(STATEMENTS.format(role=self._database.role)).splitlines()
        return {query.strip(): int(number) for number, query in (row.split("|", 1) for row in rows)}

    async def of(self, call: Awaitable[Any]) -> Cost:
        """Make a call and return its cost."""
        self.begin()
        await call
        return self.so_far()


@contextmanager
def counting_server(**settings: str) -> Iterator[PostgresServer]:
    """Run a server that counts. Raise `NoPostgres` if it has no `pg_stat_statements`."""
    with PostgresServer({**COUNTING, **settings}) as server:
        yield server


def store_at(database: Database) -> PostgresStore:
    settings: dict[str, Any] = {"lease_seconds": 600.0, "look_seconds": 600.0, "call_seconds": 300.0}
    settings |= {"connections": 1, "read_connections": 1}  # each has its functions compiled
    return PostgresStore(PostgresConfig(url=Secret(database.socket_url), **settings))


async def fill(database: Database, store: PostgresStore, *, queued: int, finished: int) -> None:
    """Store finished jobs, and queue jobs of one client beside ten others who have ten each."""
    others = [make_job(client=f"other-{n}", id=f"03-{n}-{m}") for n in range(10) for m in range(10)]
    await store.add([make_job(client="crowd", id="queued"), *others])
    await store.add([make_job("end", id="done"), make_job("end", id="failed")])
    for claim in await store.claim(["end"], SEQUENCE, 2):
        error = Outcome(JobStatus.FAILED, ContainerError(container="end", error="it broke"))
        job = claim.job.finished(error, 1.0) if claim.job.id == "failed" else succeeded(claim.job)
        await store.save(claim, job)
    await asyncio.to_thread(database.sql, FILL.format(queued=queued, finished=finished, rare=RARE))


async def costs(database: Database, store: PostgresStore, finished: int) -> dict[str, Cost]:
    """Return the cost of each call on a filled schema."""
    counted, found = Counted(database), dict[str, Cost]()

    async def one(name: str, call: Callable[[], Awaitable[Any]]) -> None:
        await call()  # functions are compiled, and pages are read
        found[name] = await counted.of(call())

    async def save() -> None:
        await store.save(*ready.pop())

    def find(**query: Any) -> Callable[[], Awaitable[Any]]:
        return lambda: store.page(JobQuery(**{"limit": 100, **query}))

    await one("claim 1", lambda: store.claim(["echo"], SEQUENCE, 1))
    await one("claim 64", lambda: store.claim(["echo"], SEQUENCE, 64))
    ready = [(claim, succeeded(claim.job)) for claim in await store.claim(["echo"], SEQUENCE, 2)]
    await one("save", save)
    await one("look for jobs, none", lambda: looked(store, ["none"]))
    await one("add", lambda: store.add([make_job("other")]))
    await one("status of a job", lambda: store.get(["01-0000000500"]))
    await one("pending", lambda: store.pending(["crowd", "many"]))
    await one("renewal", store.session._beat)
    await one("newest of all", find(order="newest"))
    await one("newest of a client", find(order="newest", client="many"))
    await one("page far behind", find(client="many", after=f"01-{finished // 2:010}"))
    await one("finished", find(order="finished"))
    await one("finished, far behind", find(order="finished", after=str(finished // 2)))
    await one("finished of a client", find(order="finished", client="few", after=str(finished // 2)))
    await one("unfinished of a client", find(status=UNFINISHED, client="crowd"))
    await one("unfinished, none", find(status=UNFINISHED, client="few"))
    await one("failed", find(status={JobStatus.FAILED}, client="many"))
    await one("failed, none", find(status={JobStatus.CANCELLED}, client="many"))
    await one("error text", find(error="broke"))
    await one("error text, none", find(error="nothing of this kind"))
    await one("by idempotency key", find(idempotency_key="none", client="many"))
    await one("retention by age, none", lambda: store.expire(finished_before=1.0, keep=None, limit=1000))
    await one("retention by age, 1000", lambda: store.expire(finished_before=1e9, keep=None, limit=1000))
    await one("retention by number, 1000", lambda: store.expire(finished_before=None, keep=finished // 2, limit=1000))
    await one("forgetting groups", lambda: store.write("SELECT nodekit.forget_groups('', 500)", []))
    await one("queues, for operators", store.queues)
    return found


async def looked(store: PostgresStore, containers: list[str]) -> None:
    """Look for jobs once, as a call of `claim` that waits."""
    room = {"each": None, "groups": [], "room": [], "most_bytes": None}
    given = {"dues": named(containers), "pipelines": None, "limit": 1, "suspects": True, **room}
    await store._look(CLAIM, given)


async def _printed(queued: int, finished: int) -> None:
    with counting_server(shared_buffers="512MB", max_wal_size="8GB") as server, server.database() as database:
        async with store_at(database) as store:
            await fill(database, store, queued=queued, finished=finished)
            print(f"{queued:,} queued jobs of one client, 100 of ten others, {finished:,} finished jobs", flush=True)
            print(f"{'':30}{'statements':>12}{'pages':>12}{'log bytes':>12}{'ms':>10}")
            for name, cost in (await costs(database, store, finished)).items():
                print(f"{name:30}{cost.statements:12}{cost.pages:12}{cost.log_bytes:12}{cost.milliseconds:10.2f}")


async def _idle(seconds: float) -> None:
    """Print what three nodes ask that have no jobs, with the settings of the store as they are by default."""
    with counting_server() as server, server.database() as database:
        counted = Counted(database)
        async with AsyncExitStack() as stack:
            for _ in range(3):
                store = PostgresStore(PostgresConfig(url=Secret(database.socket_url)))
                await stack.enter_async_context(make_node(store=store))
            await asyncio.sleep(10)
            counted.begin()
            await asyncio.sleep(seconds)
            cost, found = counted.so_far(), counted.statements()
        each = f"{cost.statements / seconds:.2f} statements and {cost.log_bytes / seconds:.0f} bytes of the log"
        print(f"three nodes, no job, {seconds:g} s: {each} per second")
        for query, number in found.items():
            print(f"{number / seconds:10.3f}  {' '.join(query.split())[:100]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queued", type=int, default=100_000)
    parser.add_argument("--finished", type=int, default=1_000_000)
    parser.add_argument("--idle", type=float, metavar="SECONDS", help="count what three nodes without jobs ask")
    given = parser.parse_args()
    try:
        if given.idle:
            return asyncio.run(_idle(given.idle))
        asyncio.run(_printed(given.queued, given.finished))
    except NoPostgres as reason:
        sys.exit(str(reason))


if __name__ == "__main__":
    main()
