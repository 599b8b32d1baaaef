"""Addresses of a real PostgreSQL, and its tables: who creates them, and their versions."""

import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from postgres_server import Database
from postgres_stores import make_store, run_a_job

from nodekit import CompositionError, JobQuery, NodeFile, Secret, StoreFailed
from nodekit_postgres import PostgresConfig, PostgresStore, provider

pytestmark = pytest.mark.anyio


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
