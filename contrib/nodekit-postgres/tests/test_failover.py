"""The loss of the server itself: its power is lost, a replica takes over, a dump is restored elsewhere."""

import subprocess
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest
from lossy_disk import LossyDisk
from postgres_server import HOST, Database, PostgresServer, Standby, path_of, programs

from nodekit import JobId, JobQuery, JobRequest, JobStatus, Node, NodeLimits, Secret, StoreFailed, Unavailable
from nodekit.testing import make_function_runner, make_job, make_node, make_request
from nodekit_postgres import PostgresConfig, PostgresStore

pytestmark = pytest.mark.anyio

SECONDS = 100.0


@pytest.fixture(autouse=True)
def tools(postgres_server: PostgresServer) -> None:
    """Skip these tests on a server that was chosen without its tools: those of another version refuse it."""
    missing = [name for name in ("pg_basebackup", "pg_dump") if not (programs() / name).exists()]
    if missing:
        pytest.skip(f"there is no {' and no '.join(missing)} of the chosen version")


class Gate:
    """A container whose calls end when it is opened."""

    def __init__(self) -> None:
        self.opened, self.calls = anyio.Event(), 0

    async def pass_through(self, data: Any) -> Any:
        self.calls += 1
        await self.opened.wait()
        return data

    async def called(self, times: int) -> None:
        with anyio.fail_after(SECONDS):
            while self.calls < times:
                await anyio.sleep(0.01)


@pytest.fixture
def pair(postgres_server: PostgresServer) -> Iterator[tuple[Database, Standby]]:
    """A database of a server of its own, and a replica that follows it."""
    with PostgresServer() as primary:
        with Standby(primary) as standby:
            yield primary.create(), standby


def synchronous(primary: PostgresServer) -> None:
    """Let replicas have each commit before it is acknowledged."""
    primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*';")
    primary.sql("SELECT pg_reload_conf();")


def store_on(database: Database, standby: Standby) -> PostgresStore:
    """Return a store that finds the server that takes writes."""
    address = f"{HOST}:{database.server.port},{HOST}:{standby.port}"
    url = f"postgresql://{database.role}:{database.password}@{address}/{database.name}?target_session_attrs=read-write"
    return PostgresStore(PostgresConfig(url=Secret(url), lease_seconds=2, connect_seconds=2))


async def submitted(node: Node, request: JobRequest) -> JobId:
    """Submit a job as soon as there is a server that takes it."""
    with anyio.fail_after(SECONDS):
        while True:
            try:
                return (await node.submit(request)).id
            except (StoreFailed, Unavailable):
                await anyio.sleep(0.1)


async def test_nodes_go_on_with_a_synchronous_replica_and_no_accepted_job_is_lost(
    pair: tuple[Database, Standby],
) -> None:
    database, standby = pair
    synchronous(database.server)
    store = store_on(database, standby)
    async with make_node(store=store, limits=NodeLimits(drain_seconds=0)) as node:
        accepted = [(await node.submit(make_request("echo"))).id for _ in range(20)]
        await node.wait(accepted)
        accepted += [(await node.submit(make_request("slow"))).id for _ in range(3)]
        database.server.kill()
        with pytest.raises(StoreFailed):
            await node.submit(make_request("echo"))
        standby.promote()
        accepted.append(await submitted(node, make_request("echo")))
        kept = await store.get(accepted)
        assert [job.id for job in kept] == accepted
        assert [job.status for job in kept[:20]] == [JobStatus.SUCCESS] * 20
        with anyio.fail_after(SECONDS):
            [last] = await node.wait(accepted[-1:])
        assert last.status is JobStatus.SUCCESS


async def test_with_an_asynchronous_replica_what_it_had_not_got_is_lost_and_the_rest_goes_on(
    pair: tuple[Database, Standby],
) -> None:
    database, standby = pair
    store = store_on(database, standby)
    gate = Gate()
    runner = make_function_runner(functions={"gate": gate.pass_through})
    async with make_node(store=store, runners=[runner], limits=NodeLimits(drain_seconds=0)) as node:
        done = [(await node.submit(make_request("echo"))).id for _ in range(5)]
        await node.wait(done)
        kept = (await node.submit(make_request("gate", idempotency_key="kept"))).id
        await gate.called(1)
        standby.catch_up()
        standby.fall_behind()
        late = [(await node.submit(make_request("echo", idempotency_key=f"late {n}"))).id for n in range(5)]
        await node.wait(late)
        running = (await node.submit(make_request("gate"))).id
        await gate.called(2)
        database.server.kill()
        standby.promote()
        after = await submitted(node, make_request("echo"))

        lost = [*late, running]
        assert await store.get(lost) == []
        assert await node.cancel(running) is None
        again = await submitted(node, make_request("echo", idempotency_key="late 0"))
        assert again not in late
        assert await submitted(node, make_request("gate", idempotency_key="kept")) == kept
        gate.opened.set()
        with anyio.fail_after(SECONDS):
            ended = await node.wait([*done, kept, after, again])
        assert {job.status for job in ended} == {JobStatus.SUCCESS}
        assert await store.get(lost) == []
        listed = await store.find(JobQuery())
        assert sorted(listed) == sorted([*done, kept, after, again])
        assert (await store.pending()).total == 0
        assert not await store.queues()


async def test_a_server_that_loses_power_has_all_that_it_has_acknowledged(postgres_server: PostgresServer) -> None:
    with PostgresServer({"fsync": "on"}) as server:
        config = PostgresConfig(url=Secret(server.create().url), lease_seconds=2, connect_seconds=2, call_seconds=1)
        disk, store, first, gate = LossyDisk(server), PostgresStore(config), Gate(), Gate()
        first.opened.set()
        functions = {"first": first.pass_through, "gate": gate.pass_through}
        async with make_node(store=store, runners=[make_function_runner(functions=functions)]) as node:
            ids = [(await node.submit(make_request("echo"))).id for _ in range(20)]
            done = await node.wait(ids)
            running = (await node.submit(make_request("first", "gate"))).id
            await gate.called(1)
            disk.hold()
            with pytest.raises((StoreFailed, Unavailable)):
                await node.submit(make_request("echo"))
            await anyio.to_thread.run_sync(disk.lose_power)
            await anyio.to_thread.run_sync(server.start)
            after = await submitted(node, make_request("echo"))
            assert await store.get(ids) == done
            assert await store.find(JobQuery()) == [*ids, running, after], "the disk has lost the other one"
            gate.opened.set()
            with anyio.fail_after(SECONDS):
                ended = await node.wait([running, after])
            assert {job.status for job in ended} == {JobStatus.SUCCESS}
            assert first.calls == 1


async def test_a_dump_of_the_schema_is_a_backup_that_other_nodes_go_on_with(
    database: Database, postgres_server: PostgresServer
) -> None:
    async with PostgresStore(PostgresConfig(url=Secret(database.url))) as store:
        waiting = make_job()
        await store.add([waiting, *(make_job() for _ in range(5))])
        [claim] = await store.claim(["echo"], None, 1)
    with postgres_server.database() as other:
        restored(dumped(database), other)
        async with make_node(store=PostgresStore(PostgresConfig(url=Secret(other.url)))) as node:
            with anyio.fail_after(SECONDS):
                jobs = await node.wait([waiting.id, claim.job.id])
            assert {job.status for job in jobs} == {JobStatus.SUCCESS}


async def test_jobs_that_end_after_a_restore_elsewhere_come_after_those_of_the_dump(database: Database) -> None:
    database.sql("SELECT pg_current_xact_id();\n" * 3000)  # the server of the dump has worked for longer
    async with make_node(store=PostgresStore(PostgresConfig(url=Secret(database.url)))) as node:
        before = [(await node.submit(make_request("echo"))).id for _ in range(3)]
        await node.wait(before)
    ended = JobQuery(order="finished")
    with PostgresServer() as server, server.database() as other:
        restored(dumped(database), other)
        store = PostgresStore(PostgresConfig(url=Secret(other.url)))
        async with make_node(store=store) as node:
            dumped_order = await store.find(ended)
            assert sorted(dumped_order) == sorted(before)
            after = (await node.submit(make_request("echo"))).id
            await node.wait([after])
            assert await store.find(ended) == [*dumped_order, after]
            assert await store.expire(finished_before=None, keep=1, limit=10) == 3
            assert await store.find(ended) == [after]
        async with store:  # a later start leaves the numbers as they are
            assert await store.find(ended) == [after]


def dumped(database: Database) -> bytes:
    command = [programs() / "pg_dump", "--schema=nodekit", "--no-owner", "--no-privileges", database.url]
    return subprocess.run(command, capture_output=True, check=True).stdout


def restored(dump: bytes, database: Database) -> None:
    command = [path_of("psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", database.url]
    subprocess.run(command, input=dump, capture_output=True, check=True)
