"""The tables and functions of a schema, and their versions. Migrations go forward only."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from importlib.resources import files

import psycopg
from psycopg.errors import UndefinedTable

from nodekit import StoreFailed
from nodekit_postgres._config import PostgresConfig
from nodekit_postgres._connecting import Connection, close, connect, said

MIGRATIONS = (("1-tables.sql", "1-queue.sql", "1-claims.sql"),)
VERSION = len(MIGRATIONS)
OLDEST_NODE = 1
"""Oldest version that a node may know to work with the tables of this one: that of the last release."""

FOREIGN_NUMBER = """
    SELECT last.number FROM nodekit.about, (SELECT max(finish_number) AS number FROM nodekit.jobs) AS last
    WHERE last.number >= finish_base + pg_snapshot_xmax(pg_current_snapshot())::text::bigint * 1024
"""
"""Finds the last number of an end, if no transaction of this server can have given it."""
CONTINUE_NUMBERS = """
    UPDATE nodekit.about
    SET finish_base = last.number + 1024 - pg_snapshot_xmin(pg_current_snapshot())::text::bigint * 1024
    FROM (SELECT max(finish_number) AS number FROM nodekit.jobs) AS last
    WHERE last.number >= finish_base + pg_snapshot_xmax(pg_current_snapshot())::text::bigint * 1024
"""

CURE = "look whether the server runs, and at `url` of the store"

_OURS = re.compile(r"\bnodekit\.")


def in_schema(sql: str, schema: str) -> bytes:
    """Return SQL that names the schema of the settings where it names `nodekit`."""
    return _OURS.sub(f'"{schema}".', sql).encode()


@asynccontextmanager
async def opened(config: PostgresConfig) -> AsyncIterator[Connection]:
    """Give a connection for a short work. Raise `StoreFailed` if the engine cannot be reached or refuses."""
    try:
        connection = await connect(config.url.reveal(), config.connect_seconds)
    except TimeoutError as error:
        raise StoreFailed(f"cannot reach PostgreSQL within {config.connect_seconds:g} s; {CURE}") from error
    except (psycopg.Error, OSError) as error:
        raise StoreFailed(f"cannot reach PostgreSQL: {said(error)}; {CURE}") from error
    try:
        yield connection
    except psycopg.Error as error:
        raise StoreFailed(f"the schema {config.schema!r}: {said(error)}") from error
    finally:
        await close(connection)


@cache
def _script(name: str) -> str:
    return (files("nodekit_postgres") / "sql" / name).read_text()


async def version_of(connection: Connection, schema: str) -> tuple[int, int]:
    """Return the version of the tables, and the oldest that a node may know; 0 and 0 if there are no tables."""
    query = in_schema("SELECT version, oldest_node FROM nodekit.about", schema)
    try:
        rows = await (await connection.execute(query)).fetchall()
    except UndefinedTable:
        return 0, 0
    if not rows:
        raise StoreFailed(f"the schema {schema!r} has tables without a version; restore a backup, or drop the schema")
    [(version, oldest)] = rows
    return version, oldest


async def check_version(connection: Connection, schema: str) -> None:
    """Raise `StoreFailed` if this version cannot work with the tables."""
    version, oldest = await version_of(connection, schema)
    if version < VERSION:
        found = f"the schema {schema!r} has version {version}, and this nodekit-postgres needs {VERSION}"
        raise StoreFailed(f"{found}; run `nodekit store migrate`, or set migrate = true")
    if oldest > VERSION:
        found = f"the schema {schema!r} has version {version}, which nodes that know {oldest} can use"
        raise StoreFailed(f"{found}; this one knows {VERSION}: upgrade nodekit-postgres")


async def migrate(connection: Connection, schema: str) -> None:
    """Bring the schema to this version, if it is older, completely or not at all. Nodes that start together wait."""
    if (await version_of(connection, schema))[0] >= VERSION:
        return
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s), 1)", [f"nodekit {schema}"])
        exists = await connection.execute("SELECT to_regclass(%s) IS NOT NULL", [f'"{schema}".about'])
        version = 0
        if (await exists.fetchall())[0][0]:
            version, _ = await version_of(connection, schema)
        if version >= VERSION:
            return
        there = await connection.execute("SELECT to_regnamespace(%s) IS NOT NULL", [f'"{schema}"'])
        if not (await there.fetchall())[0][0]:
            await connection.execute(f'CREATE SCHEMA "{schema}"'.encode())
        for scripts in MIGRATIONS[version:]:
            for script in scripts:
                await connection.execute(in_schema(_script(script), schema))
        await connection.execute(in_schema("DELETE FROM nodekit.about", schema))
        insert = in_schema("INSERT INTO nodekit.about (version, oldest_node) VALUES (%s, %s)", schema)
        await connection.execute(insert, [VERSION, OLDEST_NODE])


async def continue_numbers(connection: Connection, schema: str) -> None:
    """Let the numbers of ends go on above those that are stored. A dump may come from a server with more transactions.

    No node works on such tables yet: each of them does this before it writes, and those that start together wait.
    """
    if await (await connection.execute(in_schema(FOREIGN_NUMBER, schema))).fetchall():
        await connection.execute(in_schema(CONTINUE_NUMBERS, schema))
