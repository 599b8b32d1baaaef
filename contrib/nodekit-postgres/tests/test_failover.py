"""The loss of the server itself: a synchronous replica takes over, and a dump is restored elsewhere."""

import subprocess
from collections.abc import Iterator

import anyio
import pytest
from postgres_server import HOST, Database, PostgresServer, Standby, path_of, programs

from nodekit import JobStatus, NodeLimits, Secret, StoreFailed
from nodekit.testing import make_job, make_node, make_request
from nodekit_postgres import PostgresConfig, PostgresStore

pytestmark = pytest.mark.anyio

SECONDS = 100.0


@pytest.fixture(autouse=True)
def tools(postgres_server: PostgresServer) -> None:
    """Skip these tests on a server that was chosen without its tools: those of another version refuse it."""
    missing = [name for name in ("pg_basebackup", "pg_dump") if not (programs() / name).exists()]
    if missing:
        pytest.skip(f"there is no {' and no '.join(missing)} of the chosen version")


@pytest.fixture
def pair(postgres_server: PostgresServer) -> Iterator[tuple[Database, Standby]]:
    """A database of a server of its own, and a replica that has each commit before it is acknowledged."""
    with PostgresServer() as primary:
        with Standby(primary) as standby:
            primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*';")
            primary.sql("SELECT pg_reload_conf();")
            yield primary.create(), standby


async def test_nodes_go_on_with_the_replica_and_no_accepted_job_is_lost(pair: tuple[Database, Standby]) -> None:
    database, standby = pair
    address = f"{HOST}:{database.server.port},{HOST}:{standby.port}"
    url = f"postgresql://{database.role}:{database.password}@{address}/{database.name}?target_session_attrs=read-write"
    store = PostgresStore(PostgresConfig(url=Secret(url), lease_seconds=2, connect_seconds=2))
    async with make_node(store=store, limits=NodeLimits(drain_seconds=0)) as node:
        accepted = [(await node.submit(make_request("echo"))).id for _ in range(20)]
        await node.wait(accepted)
        accepted += [(await node.submit(make_request("slow"))).id for _ in range(3)]
        database.server.kill()
        with pytest.raises(StoreFailed):
            await node.submit(make_request("echo"))
        standby.promote()
        with anyio.fail_after(SECONDS):
            while True:
                try:
                    accepted.append((await node.submit(make_request("echo"))).id)
                    break
                except StoreFailed:
                    await anyio.sleep(0.1)
            kept = await store.get(accepted)
            assert [job.id for job in kept] == accepted
            assert [job.status for job in kept[:20]] == [JobStatus.SUCCESS] * 20
            [last] = await node.wait(accepted[-1:])
            assert last.status is JobStatus.SUCCESS


async def test_a_dump_of_the_schema_is_a_backup_that_other_nodes_go_on_with(
    database: Database, postgres_server: PostgresServer
) -> None:
    async with PostgresStore(PostgresConfig(url=Secret(database.url))) as store:
        waiting = make_job()
        await store.add([waiting, *(make_job() for _ in range(5))])
        [claim] = await store.claim(["echo"], None, 1)
    command = [programs() / "pg_dump", "--schema=nodekit", "--no-owner", "--no-privileges", database.url]
    dump = subprocess.run(command, capture_output=True, check=True).stdout
    with postgres_server.database() as other:
        restore = [path_of("psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", other.url]
        subprocess.run(restore, input=dump, capture_output=True, check=True)
        async with make_node(store=PostgresStore(PostgresConfig(url=Secret(other.url)))) as node:
            with anyio.fail_after(SECONDS):
                jobs = await node.wait([waiting.id, claim.job.id])
            assert {job.status for job in jobs} == {JobStatus.SUCCESS}
