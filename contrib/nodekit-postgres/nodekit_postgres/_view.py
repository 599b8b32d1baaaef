"""The schema beside its nodes: its jobs for commands of operators, its size, and its version."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import anyio
from psycopg.errors import LockNotAvailable

from nodekit_postgres._config import PostgresConfig
from nodekit_postgres._connecting import Connection
from nodekit_postgres._facts import engine_facts
from nodekit_postgres._lines import Lines, Server
from nodekit_postgres._reader import Reader
from nodekit_postgres._schema import VERSION, check_version, in_schema, migrate, opened, version_of

LONG_SECONDS = 300.0
"""Age of a transaction from which it is reported: as long as it runs, nothing that was deleted can be used again."""

SIZE = """
    SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class
    WHERE relnamespace = to_regnamespace(%s) AND relkind = 'r'
"""
COUNTS = """
    SELECT (SELECT count(*) FROM nodekit.live), (SELECT count(*) FROM nodekit.live WHERE token IS NOT NULL),
        (SELECT count(*) FROM nodekit.members m JOIN nodekit.sessions s ON s.id = m.session
            WHERE s.lapses_at >= nodekit.engine_time())
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
    """Return facts about a schema and its engine: version and size, what waits, and what holds it up."""
    async with opened(config) as connection:
        facts = {"schema": config.schema} | await engine_facts(connection, config.schema)
        try:
            async with connection.transaction():
                await connection.execute("SET LOCAL lock_timeout = '500ms'")
                facts |= await _facts_of_tables(connection, config.schema)
        except LockNotAvailable:
            facts["attention"] = "somebody has locked a table of the schema against everything; see pg_locks"
        if int(facts["oldest_transaction_seconds"]) > LONG_SECONDS:
            facts["attention"] = "a transaction is open for so long that deleted rows cannot be used again; end it"
        return facts


async def _facts_of_tables(connection: Connection, schema: str) -> dict[str, str | int]:
    """Return what can only be known if no table is locked against reading."""

    async def one(query: str, *given: Any) -> tuple[Any, ...]:
        rows = await (await connection.execute(in_schema(query, schema), given or None)).fetchall()
        return rows[0]

    if not (await one("SELECT to_regclass(%s) IS NOT NULL", f'"{schema}".about'))[0]:
        return {"schema_version": 0}
    version, _ = await version_of(connection, schema)
    (size,) = await one(SIZE, f'"{schema}"')
    unfinished, claimed, nodes = await one(COUNTS)
    found = {"schema_version": version, "used_bytes": size, "unfinished_jobs": unfinished}
    return found | {"claimed_jobs": claimed, "nodes": nodes}


async def migrated(config: PostgresConfig) -> str:
    """Bring a schema to the version of this package. Return a line that says what was done."""
    async with opened(config) as connection:
        before, _ = await version_of(connection, config.schema)
        await migrate(connection, config.schema)
        after, _ = await version_of(connection, config.schema)
    if before == after:
        return f"the schema {config.schema} has version {after}; this package knows {VERSION}, so nothing was done"
    return f"the schema {config.schema} has version {after} now" + (f"; it had {before}" if before else "")
