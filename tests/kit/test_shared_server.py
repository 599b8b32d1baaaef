"""The suite of shared stores, on an engine that is a process of its own; and what happens when it or its connections
fail."""

import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from chance import each_run
from msgspec.structs import replace

from nodekit import (
    Announcement,
    Change,
    ClaimLost,
    Job,
    JobFields,
    JobQuery,
    JobStatus,
    Location,
    SharedStore,
    StoreFailed,
    VersionConflict,
)
from nodekit.testing import (
    SEQUENCE,
    DurableJobStoreContract,
    EngineFaultContract,
    SharedServer,
    SharedServerStore,
    SharedStoreContract,
    TcpProxy,
    make_job,
    succeeded,
    unnumbered,
    with_output,
)
from nodekit.testing.shared_store.wire import BROKEN, MAX_FRAME_BYTES, Frames, Request, encode, raw

TIMEOUT_SECONDS = 20.0
LEASE_SECONDS = 2.0
"""Time limit of calls, too; a busy machine may take a second for one."""
LONG_LEASE_SECONDS = 30.0
"""A lease that does not run out in a test: what happens, happens before."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedServer]:
    with SharedServer(tmp_path_factory.mktemp("engine") / "jobs.db", lease_seconds=LEASE_SECONDS) as server:
        yield server


class TestSharedServerStore(SharedStoreContract, DurableJobStoreContract):
    """The engine outlives the processes that are killed here."""

    backends = each_run(("asyncio",), ("asyncio", "trio"))  # test_shared_store.py has both of each test
    exclusive = False
    lease_seconds = LEASE_SECONDS

    @pytest.fixture
    def open_store(self, running: SharedServer) -> Callable[[], SharedStore]:
        running.clear()
        return running.store


# -- connections that fail ----------------------------------------------------------------------------


@asynccontextmanager
async def behind_proxy(server: SharedServer) -> AsyncIterator[tuple[TcpProxy, SharedServerStore]]:
    """Give a proxy in front of the engine, and a store that connects through it."""
    with TcpProxy(*server.address) as proxy:
        async with SharedServerStore(*proxy.address) as store:
            await store.now()  # by now its first renewal was answered: the next answer is that of a test's call
            yield proxy, store


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SharedServer]:
    with SharedServer(tmp_path / "jobs.db") as server:
        yield server


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[SharedServer]:
    with SharedServer(tmp_path / "jobs.db", lease_seconds=LONG_LEASE_SECONDS) as server:
        yield server


@pytest.fixture(autouse=True)
def _bounded(request: pytest.FixtureRequest) -> None:
    request.node.add_marker(pytest.mark.timeout(90))


async def claimed(store: SharedStore, job: Job | None = None, due: str = "echo") -> tuple[Job, Any]:
    await store.add([job := job or make_job("echo", "reverse")])
    [claim] = await store.claim([due], SEQUENCE, 1)
    return job, claim


async def lost(proxy: TcpProxy, call: Callable[[], Awaitable[object]]) -> None:
    """Make a call, and lose its answer."""
    proxy.cut_answers()
    with anyio.fail_after(TIMEOUT_SECONDS), pytest.raises(StoreFailed):
        await call()
    proxy.heal()


until_answered = EngineFaultContract().answered
"""Repeats a call until it does not fail, as nodes do."""


@pytest.mark.anyio
async def test_a_claim_whose_answer_is_lost_is_given_back_at_once(patient: SharedServer) -> None:
    async with behind_proxy(patient) as (proxy, store), patient.store() as other, anyio.create_task_group() as tasks:
        claims = []

        async def claim() -> None:
            claims.extend(await store.claim(["echo"], SEQUENCE, 1))

        tasks.start_soon(claim)
        assert await store.pending()  # the call above is on its way, too
        line = store._line
        assert line is not None
        proxy.cut_answers()
        await other.add([job := make_job()])
        with anyio.fail_after(TIMEOUT_SECONDS):
            await line.gone.wait()  # the answer is cut, and the connection with it
            assert claims == []
            proxy.heal()
            while not claims:
                await anyio.sleep(0.01)
        assert [(claim.job, claim.takeovers) for claim in claims] == [(job, 0)]
        await store.save(claims[0], succeeded(job))


@pytest.mark.anyio
async def test_a_stream_whose_claim_is_lost_on_the_way_fails_at_once(patient: SharedServer) -> None:
    async with behind_proxy(patient) as (proxy, store), patient.store() as other:
        job = make_job(destination=Location.STREAM)
        await lost(proxy, lambda: store.add_claimed(job))
        with anyio.fail_after(TIMEOUT_SECONDS):
            while [one.status for one in await other.get([job.id])] != [JobStatus.FAILED]:
                await anyio.sleep(0.01)


@pytest.mark.anyio
async def test_claims_and_subscriptions_outlive_a_connection(patient: SharedServer) -> None:
    async with behind_proxy(patient) as (proxy, store), store.changes() as changes:
        job, claim = await claimed(store)
        proxy.drop()
        with anyio.fail_after(TIMEOUT_SECONDS):
            while await anext(changes) is not None:
                pass
            await store.save(claim, begun := with_output(job, due="reverse"))
            assert await anext(changes) == Change(job.id)
        assert not claim.scope.cancel_called
        assert await store.get([job.id]) == [begun]


@pytest.mark.anyio
async def test_writes_whose_answers_are_lost_can_be_repeated(patient: SharedServer) -> None:
    async with behind_proxy(patient) as (proxy, store):
        job = make_job("echo", "reverse")
        await lost(proxy, lambda: store.add([job]))
        assert await store.add([job]) == [job]
        [claim] = await store.claim(["echo"], SEQUENCE, 2)
        begun = with_output(job, due="reverse")
        await lost(proxy, lambda: store.save(claim, begun))
        await store.save(claim, begun)
        done = succeeded(begun)
        await lost(proxy, lambda: store.save(claim, done))
        with pytest.raises(ClaimLost):
            await store.save(claim, done)
        [kept] = await store.get([job.id])
        assert unnumbered(kept) == done
        assert (await store.pending()).total == 0


@pytest.mark.anyio
async def test_an_engine_that_does_not_answer_costs_no_more_than_a_lease(server: SharedServer) -> None:
    async with behind_proxy(server) as (proxy, store), server.store() as other:
        job, claim = await claimed(store)
        proxy.hang()
        with anyio.fail_after(TIMEOUT_SECONDS), pytest.raises(StoreFailed):
            await store.get([job.id])
        with anyio.fail_after(TIMEOUT_SECONDS), claim.scope:
            await anyio.sleep_forever()
        with anyio.fail_after(TIMEOUT_SECONDS), pytest.raises(ClaimLost):
            await store.save(claim, succeeded(job))
        with anyio.fail_after(TIMEOUT_SECONDS):
            [again] = await other.claim(["echo"], SEQUENCE, 1)
            assert again.takeovers == 1
            proxy.heal()  # what was held back arrives, and comes too late
            assert await until_answered(lambda: store.get([job.id])) == [job]


@pytest.mark.anyio
async def test_a_connection_that_hangs_is_replaced_and_its_calls_with_it(server: SharedServer) -> None:
    async with behind_proxy(server) as (proxy, store), server.store() as other, anyio.create_task_group() as tasks:
        _, held = await claimed(store, make_job("reverse", "echo", priority=0), "reverse")
        claims: list[Any] = []

        async def claim() -> None:
            claims.extend(await store.claim(["echo"], SEQUENCE, 1))

        tasks.start_soon(claim)
        await store.now()
        proxy.half_open()
        with anyio.fail_after(TIMEOUT_SECONDS):
            await until_answered(store.now)
            await other.add([job := make_job()])
            while not claims:
                await anyio.sleep(0.01)
        assert [(claim.job, claim.takeovers) for claim in claims] == [(job, 0)]
        await store.save(held, with_output(held.job, due="echo"))  # the session has not lapsed


# -- an engine that dies ------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_an_engine_that_was_killed_keeps_jobs_and_no_claims(patient: SharedServer) -> None:
    offered = Announcement(name="a", incarnation="1")
    async with patient.store() as store, store.changes() as changes:
        await store.announce(offered)
        job, claim = await claimed(store)
        await store.save(claim, begun := with_output(job, due="reverse"))
        patient.kill()
        patient.start()
        with anyio.fail_after(TIMEOUT_SECONDS):
            with claim.scope:
                await anyio.sleep_forever()
            for write in (store.save, store.release):
                with pytest.raises(ClaimLost):
                    await write(claim, succeeded(begun))
            while await anext(changes) is not None:
                pass
            [again] = await store.claim(["reverse"], SEQUENCE, 1)
            assert (again.job, again.takeovers) == (begun, 0)
            await store.save(again, succeeded(begun))
            assert [(one.announcement, one.live) for one in await store.nodes()] == [(offered, True)]


@pytest.mark.anyio
async def test_a_claim_waits_for_an_engine_that_comes_back(patient: SharedServer) -> None:
    async with patient.store() as store, patient.store() as other, anyio.create_task_group() as tasks:
        claims = []

        async def claim() -> None:
            claims.extend(await store.claim(["echo"], SEQUENCE, 1))

        tasks.start_soon(claim)
        await store.now()
        patient.kill()
        patient.start()
        with anyio.fail_after(TIMEOUT_SECONDS):
            job = make_job()
            await until_answered(lambda: other.add([job]))
            while not claims:
                await anyio.sleep(0.01)
        assert claims[0].job == job


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_a_store_can_be_left_while_the_engine_is_out_of_reach(server: SharedServer, how: str) -> None:
    with anyio.fail_after(TIMEOUT_SECONDS):
        async with server.store() as store:
            await claimed(store)
            if how == "killed":
                server.kill()
                for _ in range(2):
                    with pytest.raises(StoreFailed):
                        await store.now()
            else:
                os.kill(server.pid, signal.SIGSTOP)


@pytest.mark.anyio
async def test_a_store_without_an_engine_is_not_entered(server: SharedServer) -> None:
    store = server.store()
    server.kill()
    with anyio.fail_after(TIMEOUT_SECONDS), pytest.raises(StoreFailed, match="cannot reach the engine"):
        async with store:
            pass
    with pytest.raises(StoreFailed, match="not entered"):
        await store.now()
    server.start()
    for _ in range(2):
        async with store:
            assert await store.find(JobQuery()) == []


@pytest.mark.anyio
async def test_an_engine_that_is_ended_leaves_its_file_in_order(server: SharedServer) -> None:
    async with server.store() as store:
        await store.add([job := make_job()])
    server.stop()
    assert not server.path.with_name(f"{server.path.name}-wal").exists()
    server.start()
    async with server.store() as store:
        assert await store.get([job.id]) == [job]


@pytest.mark.anyio
async def test_a_read_only_engine_answers_and_renews(server: SharedServer) -> None:
    async with server.store() as store:
        job, claim = await claimed(store)
        server.read_only(True)
        writes: Sequence[Callable[[], object]] = (
            lambda: store.add([make_job()]),
            lambda: store.add_claimed(make_job(destination=Location.STREAM)),
            lambda: store.save(claim, succeeded(job)),
            lambda: store.release(claim, job),
            lambda: store.delete([job.id]),
            lambda: store.expire(finished_before=None, keep=0, limit=1),
            lambda: store.storage("plugin").put("k", b"v"),
            lambda: store.storage("plugin").delete("k"),
        )
        for write in writes:
            with pytest.raises(StoreFailed, match="read-only"):
                await write()
        await anyio.sleep(2 * store.lease_seconds)
        assert await store.get([job.id]) == [job]
        assert await store.storage("plugin").get("k") is None
        server.read_only(False)
        await store.save(claim, succeeded(job))


# -- the protocol -------------------------------------------------------------------------------------

GARBAGE = {
    "no JSON": b"\x00\x00\x00\x04abcd",
    "no request": b"\x00\x00\x00\x02{}",
    "no such method": b'\x00\x00\x00\x0b[1,"_call"]',
    "no session": b'\x00\x00\x00\x09[1,"now"]',
    "wrong arguments": encode([1, "resume", {"session": "x"}]).join([b"\x00\x00\x00\x1c", b""]),
    "too large": (MAX_FRAME_BYTES + 1).to_bytes(4, "big"),
    "empty": bytes(4),
}


@pytest.mark.anyio
@pytest.mark.parametrize("kind", GARBAGE)
async def test_what_is_no_call_ends_its_connection_alone(running: SharedServer, kind: str) -> None:
    running.clear()
    async with running.store() as store:
        with anyio.fail_after(TIMEOUT_SECONDS):
            async with await anyio.connect_tcp(*running.address) as stream:
                await stream.send(GARBAGE[kind])
                with pytest.raises(BROKEN):
                    await Frames(stream).receive()
            assert await store.find(JobQuery()) == []


@pytest.mark.anyio
async def test_a_client_that_is_gone_waits_no_more(patient: SharedServer) -> None:
    async with patient.store() as store:
        async with await anyio.connect_tcp(*patient.address) as stream:
            frames = Frames(stream)
            wanted = {"containers": ["echo"], "pipelines": SEQUENCE, "limit": 1, "suspects": True}
            await frames.send(encode(Request(1, "resume", raw({"session": None, "tokens": []}))))
            await frames.receive()
            await frames.send(encode(Request(2, "claim", raw(wanted))))
            await frames.send(encode(Request(3, "now")))
            await frames.receive()
        await store.add([job := make_job()])
        with anyio.fail_after(TIMEOUT_SECONDS):
            [claim] = await store.claim(["echo"], SEQUENCE, 1)
        assert (claim.job, claim.takeovers) == (job, 0)


@pytest.mark.anyio
async def test_values_travel_unchanged(running: SharedServer) -> None:
    running.clear()
    data = b'{"a": 1.10, "a": 100000000000000000000000000001, "b":[1e999, "\\ud83d\\ude00"] }'
    job = make_job()
    job = replace(job, request=replace(job.request, data=type(job.request.data)(data)))
    async with running.store() as store:
        assert await store.add([job]) == [job]
        [kept] = await store.get([job.id])
        assert bytes(kept.request.data) == data
        [part] = await store.get([job.id], fields=JobFields.STATE)
        assert bytes(part.request.data) == b""
        version = await store.storage("plugin").put("k", bytes(range(256)))
        with pytest.raises(VersionConflict) as raised:
            await store.storage("plugin").put("k", b"", expect=0)
        assert (raised.value.expected, raised.value.found) == (0, version)


@pytest.mark.anyio
async def test_more_than_fits_into_a_frame_is_refused(running: SharedServer) -> None:
    running.clear()
    async with running.store() as store:
        with pytest.raises(StoreFailed, match="ask for less"):
            await store.find(JobQuery(error="x" * MAX_FRAME_BYTES))
        assert await store.find(JobQuery()) == []


def test_only_this_machine_reaches_the_engine(running: SharedServer) -> None:
    with socket.socket() as one, pytest.raises(OSError, match="refused"):
        one.connect(("127.0.0.2", running.address[1]))
