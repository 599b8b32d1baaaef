"""Operators see locks, bloat and replicas of a real engine, at a node and by the command."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import psycopg
import pytest
from engine.fixtures import or_unavailable
from http_api import Api
from postgres_server import Database, NoPostgres, PostgresServer, Standby
from served import nodekit, serve

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

SECONDS = 100.0
NODE = """
[store]
use = "postgres"
url = {{ file = "{secret}" }}
[[runners]]
use = "function"
[[runners.containers]]
id = "echo"
call = "work.py:echo"
[[transports]]
use = "asgi"
bind = "127.0.0.1:0"
"""


@dataclass
class Engine:
    """A primary that a replica follows, and a node file for a database of it."""

    primary: PostgresServer
    standby: Standby
    database: Database
    file: Path


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with or_unavailable(NoPostgres):
        primary = PostgresServer().__enter__()
    try:
        with Standby(primary) as standby:
            database = primary.create()
            primary.sql(f"GRANT pg_monitor TO {database.role};")
            secret, file = tmp_path / "url", tmp_path / "node.toml"
            secret.write_text(database.url)
            secret.chmod(0o600)
            (tmp_path / "work.py").write_text("async def echo(data):\n    return data\n")
            file.write_text(NODE.format(secret=secret))
            yield Engine(primary, standby, database, file)
    finally:
        primary.__exit__()


async def facts(api: Api, engine: Engine) -> Mapping[str, Any]:
    """Return what a node and `nodekit cluster` show, which must be of one kind."""
    served = (await api.get("/-/cluster/")).json["engine"]
    command = ("cluster", engine.file)
    shown = await anyio.to_thread.run_sync(lambda: nodekit(*command, "--json"))
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["engine"].keys() == served.keys()
    found: Mapping[str, Any] = served
    return found


async def until(api: Api, name: str, wanted: Any) -> None:
    """Wait until a node shows a fact for which a function is true."""
    with anyio.fail_after(SECONDS):
        while not wanted((await api.get("/-/cluster/")).json["engine"][name]):
            await anyio.sleep(0.1)


async def test_locks_dead_rows_and_replicas_are_shown(engine: Engine) -> None:
    async with serve(engine.file) as (_, api):
        await api.results(await api.submit("echo"))
        found = await facts(api, engine)
        assert (found["replicas"], found["synchronous_replicas"], found["waiting_locks"]) == (1, 0, 0)
        await until(api, "replication_lag_bytes", lambda lag: lag == 0)

        engine.primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*';")
        engine.primary.sql("SELECT pg_reload_conf();")
        await until(api, "synchronous_replicas", lambda number: number == 1)

        engine.standby.sql("SELECT pg_wal_replay_pause();")
        await api.results(*[await api.submit("echo", text="x" * 1000) for _ in range(20)])
        await until(api, "replication_lag_bytes", lambda lag: lag > 20_000)
        print(await facts(api, engine))
        engine.standby.sql("SELECT pg_wal_replay_resume();")
        await until(api, "replication_lag_bytes", lambda lag: lag == 0)

        async with anyio.create_task_group() as tasks:
            with psycopg.connect(engine.database.url) as holder:
                holder.execute("LOCK TABLE nodekit.jobs IN EXCLUSIVE MODE")  # against writes
                tasks.start_soon(api.submit, "echo")
                await until(api, "waiting_locks", lambda number: number > 0)
                await until(api, "oldest_transaction_seconds", lambda seconds: seconds > 0)
                holder.rollback()
        await until(api, "waiting_locks", lambda number: number == 0)

        engine.database.sql("ALTER TABLE nodekit.records SET (autovacuum_enabled = false);")
        rows = "INSERT INTO nodekit.records SELECT '\\x00', n, '', NULL FROM generate_series(1, 1500) AS n;"
        engine.database.sql(f"{rows} DELETE FROM nodekit.records WHERE job = '\\x00';")
        await until(api, "bloated_tables", lambda tables: tables == "records")

        engine.standby.kill()
        await until(api, "replicas", lambda number: number == 0)
