"""Counts of what a cluster asks of one real PostgreSQL: statements, transactions, notifications, log and connections.

    python benchmarks/engine_load.py [--nodes 1 10 100] [--lease 15] [--alone 20] [--together 500]

Nodes run in this process, each with a store and connections of its own. The server is one of its own in a temporary
folder. It counts, so a busy machine gives nearly the same figures. Three times are looked at: nothing to do, for a
lease; jobs of one step that come one after the other, while all nodes wait for one; and jobs that are submitted in one
batch, so that there are more than slots. `--connections` is the setting of a store, to try more nodes than the server
has connections for.
"""

import argparse
import logging
import resource
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, ClassVar

import anyio

from nodekit import Node, NodeLimits, Secret
from nodekit.testing import make_function_runner, make_request
from nodekit_postgres import PostgresConfig, PostgresStore

ROOT = Path(__file__).parents[1]
SLOTS = 4
GROUPS = 20
PATIENCE_SECONDS = 300.0
"""A machine that is busy must not change what is counted."""
KINDS = {
    "claim(": "claims",
    "claim_expired(": "looks for expired jobs",
    "beat(": "renewals",
    "announce(": "announcements",
    "FROM nodekit.members": "reads of all members",
    "engine_time()": "readings of the clock",
    "pg_notify": "notifications sent",
    "add_jobs(": "additions",
    "save": "savings",
    "SELECT $1": "tests of a connection",
}

OF_A_JOB = (
    "statements",
    "claims",
    "looks for expired jobs",
    "notifications sent",
    "notifications heard",
    "transactions",
)


class CountedStore(PostgresStore):
    """A store that counts the notifications it hears."""

    heard: ClassVar[Counter[str]] = Counter()

    def _hear(self, news: Any) -> None:
        self.heard["notifications heard"] += 1
        super()._hear(news)


class Engine:
    """A server, and the counts since the last look."""

    def __init__(self, server: Any, database: Any) -> None:
        self._server, self.database = server, database
        self._wal = 0

    def reset(self) -> None:
        self._server.sql("SELECT pg_stat_statements_reset();")
        CountedStore.heard.clear()
        self._wal, self._commits = self._written(), self._committed()

    def counts(self) -> Counter[str]:
        found = Counter(CountedStore.heard)
        rows = self._server.sql(
            "SELECT calls, translate(left(query, 300), E'\\n', ' ') FROM pg_stat_statements s "
            f"JOIN pg_database d ON d.oid = s.dbid WHERE datname = '{self.database.name}';"
        )
        for row in rows.splitlines():
            calls, _, query = row.partition("|")
            found["statements"] += int(calls)
            kind = next((kind for text, kind in KINDS.items() if text in query), "other statements")
            found[kind] += int(calls)
        found["transactions"] = self._committed() - self._commits
        found["bytes of log"] = self._written() - self._wal
        return found

    def connections(self) -> int:
        query = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{self.database.name}';"
        return int(self._server.sql(query))

    def _written(self) -> int:
        return int(self._server.sql("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint;"))

    def _committed(self) -> int:
        query = f"SELECT xact_commit FROM pg_stat_database WHERE datname = '{self.database.name}';"
        return int(self._server.sql(query))


async def measured(engine: Engine, nodes: int, options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Run a cluster. Return its column of the table."""
    url = Secret(engine.database.socket_url)
    settings: dict[str, Any] = {"connect_seconds": PATIENCE_SECONDS, "call_seconds": PATIENCE_SECONDS}
    if options.connections is not None:
        settings |= {"connections": options.connections, "read_connections": options.connections}
    async with AsyncExitStack() as stack:
        running = list[Node]()
        for number in range(nodes):
            store = CountedStore(PostgresConfig(url=url, lease_seconds=options.lease, **settings))
            limits = NodeLimits(concurrency=SLOTS, drain_seconds=1.0, max_pending=10**6)
            node = Node(store=store, runners=[make_function_runner()], name=f"node-{number}", limits=limits)
            running.append(await stack.enter_async_context(node))
        await anyio.sleep(options.lease)  # until each knows all
        idle = await looked(engine, lambda: anyio.sleep(options.lease))
        alone = await looked(engine, lambda: one_by_one(running, options.alone))
        together = await looked(engine, lambda: at_once(running, options.together))
        connections = await anyio.to_thread.run_sync(engine.connections)
    return figures(nodes, idle, alone, together, connections, options)


async def looked(engine: Engine, work: Any) -> Counter[str]:
    """Do some work. Return what the engine counted meanwhile, and the seconds that it took."""
    await anyio.sleep(1.2)  # what others counted before is written down once a second
    await anyio.to_thread.run_sync(engine.reset)
    began = anyio.current_time()
    await work()
    seconds = anyio.current_time() - began
    await anyio.sleep(1.2)
    counts = await anyio.to_thread.run_sync(engine.counts)
    counts["milliseconds"] = round(1000 * (seconds + 1.2))
    return counts


async def one_by_one(nodes: list[Node], jobs: int) -> None:
    for number in range(jobs):
        job = await nodes[number % len(nodes)].submit(make_request("echo", client=f"client-{number % GROUPS}"))
        await nodes[(number + 1) % len(nodes)].wait([job.id])
        await anyio.sleep(0.2)


async def at_once(nodes: list[Node], jobs: int) -> None:
    requests = [make_request("echo", client=f"client-{number % GROUPS}") for number in range(jobs)]
    accepted = await nodes[0].submit_many(requests)
    await nodes[-1].wait([job.id for job in accepted])  # type: ignore[union-attr]


def figures(
    nodes: int,
    idle: Counter[str],
    alone: Counter[str],
    together: Counter[str],
    connections: int,
    options: argparse.Namespace,
) -> Iterator[tuple[str, str]]:
    yield "nodes", f"{nodes:,}"
    yield "connections", f"{connections:,}"
    leases = idle["milliseconds"] / 1000 / options.lease
    yield f"**of an idle node, per lease of {options.lease:g} s**", ""
    for name in ("statements", "transactions", "renewals", "announcements", "claims", "looks for expired jobs"):
        yield name, f"{idle[name] / nodes / leases:.1f}"
    yield "bytes of log", f"{idle['bytes of log'] / nodes / leases:,.0f}"
    for title, found, jobs in (
        ("of a job that comes alone, less what idle nodes do", alone, options.alone),
        ("of a job among many", together, options.together),
    ):
        rest = found["milliseconds"] / idle["milliseconds"]
        yield f"**{title}**", ""
        for name in OF_A_JOB:
            yield name, f"{(found[name] - rest * idle[name]) / jobs:,.1f}"
        yield "bytes of log", f"{(found['bytes of log'] - rest * idle['bytes of log']) / jobs:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--lease", type=float, default=15.0, help="seconds of a lease")
    parser.add_argument("--alone", type=int, default=20, help="jobs that come one after the other")
    parser.add_argument("--together", type=int, default=500, help="jobs that come together")
    parser.add_argument("--connections", type=int, help="connections for writes, and for reads, of each node")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    sys.path.append(str(ROOT / "contrib" / "nodekit-postgres" / "tests"))
    from postgres_server import PostgresServer

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    columns: list[list[tuple[str, str]]] = []
    settings = {"shared_preload_libraries": "pg_stat_statements", "max_connections": "2000"}
    with PostgresServer(settings) as server:
        server.sql("CREATE EXTENSION pg_stat_statements;")
        for nodes in options.nodes:
            with server.database() as database:
                print(f"{nodes} nodes", file=sys.stderr, flush=True)
                columns.append(list(anyio.run(measured, Engine(server, database), nodes, options)))
    print("|" * (len(columns) + 2) + "\n|" + "---|" * (len(columns) + 1))
    for row in zip(*columns, strict=True):
        print(f"| {row[0][0]} | " + " | ".join(value for _, value in row) + " |")


if __name__ == "__main__":
    main()
