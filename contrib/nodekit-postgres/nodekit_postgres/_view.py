"""The schema beside its nodes: its jobs for commands of operators, its size, and its version."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import anyio

from nodekit_postgres._config import PostgresConfig
from nodekit_postgres._lines import Lines, Server
from nodekit_postgres._reader import Reader
from nodekit_postgres._schema import VERSION, check_version, in_schema, migrate, opened, version_of

LONG_SECONDS = 300.0
"""Age of a transaction from which it is reported: as long as it runs, nothing that was deleted can be used again."""

SIZES = """
    SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint, coalesce(sum(s.n_live_tup), 0)::bigint,
        coalesce(sum(s.n_dead_tup), 0)::bigint
    FROM pg_class c JOIN pg_stat_all_tables s ON s.relid = c.oid
    WHERE c.relnamespace = to_regnamespace(%s) AND c.relkind = 'r'
"""
OLDEST = """
    SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::double precision,
        coalesce(max(age(backend_xmin)), 0)::bigint
    FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND (backend_xid IS NOT NULL OR backend_xmin IS NOT NULL)
"""
COUNTS = """
    SELECT (SELECT count(*) FROM nodekit.live), (SELECT count(*) FROM nodekit.live WHERE token IS NOT NULL),
        (SELECT count(*) FROM nodekit.sessions WHERE lapses_at >= nodekit.engine_time())
"""


class PostgresView(Reader):
    """The jobs of a schema, beside the nodes that work on it (`JobView`)."""

    async def __aenter__(self) -> Self:
        async with opened(self.config) as connection:
            await check_version(connection, self.config.schema)
        server = Server(self.config.url.reveal(), self.config.connect_seconds)
        self.reads = self.writes = Lines(server, 1)
        connected = self.reads.connected.next()
        self._tasks = await anyio.create_task_group().__aenter__()
        self.reads.start(self._tasks)
        with anyio.move_on_after(2 * self.config.connect_seconds):
            await connected.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self.reads.close(at_once=True)
        await self._tasks.__aexit__(None, None, None)
        return None


async def facts_of(config: PostgresConfig) -> Mapping[str, str | int]:
    """Return facts about a schema: its version and size, what waits to be vacuumed, and what holds that up."""
    async with opened(config) as connection:

        async def one(query: str, *given: Any) -> tuple[Any, ...]:
            rows = await (await connection.execute(in_schema(query, config.schema), given or None)).fetchall()
            return rows[0]

        version, _ = await version_of(connection, config.schema)
        (server,) = await one("SELECT current_setting('server_version')")
        facts: dict[str, str | int] = {"postgresql": str(server), "schema": config.schema, "schema_version": version}
        if version:
            size, live, dead = await one(SIZES, f'"{config.schema}"')
            unfinished, claimed, nodes = await one(COUNTS)
            oldest, oldest_age = await one(OLDEST)
            facts |= {"used_bytes": size, "rows": live, "dead_rows": dead, "unfinished_jobs": unfinished}
            facts |= {"claimed_jobs": claimed, "nodes": nodes}
            facts |= {"oldest_transaction_seconds": int(oldest), "oldest_snapshot_transactions": oldest_age}
            if oldest > LONG_SECONDS:
                facts["attention"] = "a transaction is open for so long that deleted rows cannot be used again; end it"
        return facts


async def migrated(config: PostgresConfig) -> str:
    """Bring a schema to the version of this package. Return a line that says what was done."""
    async with opened(config) as connection:
        before, _ = await version_of(connection, config.schema)
        await migrate(connection, config.schema)
        after, _ = await version_of(connection, config.schema)
    if before == after:
        return f"the schema {config.schema} has version {after}; this package knows {VERSION}, so nothing was done"
    return f"the schema {config.schema} has version {after} now" + (f"; it had {before}" if before else "")
