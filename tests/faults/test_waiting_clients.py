"""Many waiting clients: they cost nothing while nothing changes, and only its own job wakes each.

They wait in the process, for a reply, or on a stream of events. In drills they are two thousand.
"""

import asyncio
import resource
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import pytest
from chance import each_run
from components import SpiedStore, SwitchRunner, make_node, until
from connections import descriptors
from http_api import RawConnection, both_servers, serving

from nodekit import Change, ClientLimits, Container, ContainerOutput, JobRequest, Node, Step, encode_payload
from nodekit.embedded.change_feed import _Listener
from nodekit_asgi.http import replies as _http

pytestmark = pytest.mark.anyio

WAITING = each_run(200, 2000)
QUIET_SECONDS = each_run(0.5, 1.0)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Doors(SwitchRunner):
    """Holds every step until its own job's door is opened."""

    def __init__(self) -> None:
        super().__init__(Container(id="door"), run=self._hold)
        self._opened: dict[str, anyio.Event] = {}

    async def _hold(self, step: Step) -> ContainerOutput:
        opened = self._opened[step.job_id] = anyio.Event()
        await opened.wait()
        return ContainerOutput(container=step.container, output=encode_payload(None))

    def open(self, id: str) -> None:
        self._opened[id].set()


class Activity:
    """Counters of event loop callbacks, calls of the store, and woken waiters."""

    def __init__(self, store: SpiedStore) -> None:
        self._store = store
        self.turns = self.callbacks = self.wakings = 0
        self.cpu_seconds = time.process_time()
        self._reads = self.reads

    @property
    def reads(self) -> int:
        return self._store.calls["get"] + self._store.calls["find"]

    @property
    def new_reads(self) -> int:
        return self.reads - self._reads


@contextmanager
def observed(store: SpiedStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Activity]:
    """Count while the context is open."""
    activity = Activity(store)
    loop: Any = asyncio.get_running_loop()
    run_once, put = loop._run_once, _Listener.put

    def counted_turn() -> None:
        run_once()
        activity.turns += 1

    def counted_callback(handle: Any) -> None:
        activity.callbacks += 1
        run_handle(handle)

    def counted_put(listener: _Listener, change: Change | None) -> None:
        activity.wakings += 1
        put(listener, change)

    run_handle = asyncio.Handle._run  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_run_once", counted_turn)
        patch.setattr(asyncio.Handle, "_run", counted_callback)
        patch.setattr(_Listener, "put", counted_put)
        yield activity
    activity.cpu_seconds = time.process_time() - activity.cpu_seconds


ALL_OF_IT = ClientLimits(concurrency=10_000, max_pending=10_000)
"""Limits of one client that may use a whole node."""


async def submit(node: Node, number: int) -> list[str]:
    jobs = await node.submit_many([JobRequest.of("door", data={}, client="127.0.0.1") for _ in range(number)])
    return [job.id for job in jobs]  # type: ignore[union-attr]


def waiting(node: Node) -> int:
    return len(node._waiters.present)


async def at_rest(node: Node, number: int) -> None:
    """Wait until this many clients wait and none of their requests is under way."""
    await until(lambda: waiting(node) == number and node._executor.running == number)
    loop: Any = asyncio.get_running_loop()
    quiet = 0
    with anyio.fail_after(60):
        while quiet < 5:  # turns of the loop in which nothing but this was ready
            await asyncio.sleep(0.01)
            quiet = quiet + 1 if not loop._ready else 0


async def a_quiet_second(node: Node, number: int, store: SpiedStore, monkeypatch: pytest.MonkeyPatch) -> Activity:
    """Return the activity of a second while this many clients wait."""
    await at_rest(node, number)
    with observed(store, monkeypatch) as activity:
        await asyncio.sleep(QUIET_SECONDS)
    assert activity.new_reads == 0
    assert activity.wakings == 0
    assert activity.callbacks < 100  # far fewer than there are clients: uvicorn looks ten times a second
    return activity


async def test_many_who_wait_in_the_process_cost_nothing_while_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    store, doors = SpiedStore(), Doors()
    async with make_node(doors, store=store, concurrency=WAITING, each_client=ALL_OF_IT, drain_seconds=0) as node:
        ids = await submit(node, WAITING)
        tasks = [asyncio.create_task(node.wait([id])) for id in ids]
        quiet = await a_quiet_second(node, WAITING, store, monkeypatch)
        print(f"\n{WAITING} wait, {QUIET_SECONDS:g} s: {quiet.turns} turns of the loop, {quiet.callbacks} callbacks")

        with observed(store, monkeypatch) as one:
            doors.open(ids[7])
            assert (await tasks[7])[0].status.finished
        assert one.wakings == 1
        assert one.new_reads == 1  # the answer
        assert sum(task.done() for task in tasks) == 1

        for id in [*ids[:7], *ids[8:]]:
            doors.open(id)
        assert {jobs[0].status for jobs in await asyncio.gather(*tasks)} == {"success"}
        assert waiting(node) == 0


# -- over HTTP ----------------------------------------------------------------------------------------


@pytest.fixture
def clients() -> Iterator[int]:
    """Return the number of clients for which there are descriptors; each takes two, as its own end is here, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * WAITING + 500
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    number = min(WAITING, (max(soft, most) - 500) // 2)
    if number < WAITING:
        print(f"\n{number} clients instead of {WAITING}: the limit of open files is {hard}")
    yield number
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@asynccontextmanager
async def asking(address: tuple[str, int], paths: list[str]) -> AsyncIterator[list[RawConnection]]:
    """Open a connection for each path, and request it."""
    connections: list[RawConnection] = []
    for path in paths:
        connection = RawConnection(*await asyncio.open_connection(*address))
        await connection.send(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        connections.append(connection)
    yield connections
    for connection in connections:
        connection.writer.close()


async def told(connection: RawConnection, text: bytes) -> None:
    async with asyncio.timeout(60):
        await connection.reader.readuntil(text)


@both_servers
@pytest.mark.parametrize("path", ["/api/jobs?id={}&wait=100", "/api/jobs/{}/events"], ids=["replies", "events"])
async def test_many_who_wait_over_http_cost_nothing_while_nothing_changes(
    server: str, path: str, clients: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_http, "KEEP_ALIVE_SECONDS", 3600.0)  # what they cost is counted below
    store, doors = SpiedStore(), Doors()
    settings = {"store": store, "concurrency": clients, "each_client": ALL_OF_IT}
    async with serving(
        server,
        runners=[doors],
        node=settings,
        max_connections=clients + 100,
        max_client_connections=clients + 100,
        max_wait_seconds=100,
    ) as api:
        ids = await submit(api.node, clients)
        before = descriptors()
        async with asking(api.address, [path.format(id) for id in ids]) as connections:
            if "events" in path:
                for id, connection in zip(ids, connections, strict=True):
                    await told(connection, b'data: {"id":"%s"}' % id.encode())
            quiet = await a_quiet_second(api.node, clients, store, monkeypatch)
            assert descriptors() == before + 2 * clients
            print(f"\n{server}: {clients} wait, {QUIET_SECONDS:g} s: {quiet.turns} turns of the loop,", end=" ")
            print(f"{quiet.callbacks} callbacks, {quiet.cpu_seconds * 1000:.0f} ms of processor time")

            end = b'{"id":"%s","status":"success"'
            with observed(store, monkeypatch) as one:
                doors.open(ids[7])
                await told(connections[7], end % ids[7].encode())
            assert (one.wakings, one.new_reads) == (1, 2 if "events" in path else 1)  # events look for steps before
            await until(lambda: waiting(api.node) == clients - 1)

            others = [(id, connection) for id, connection in zip(ids, connections, strict=True) if id != ids[7]]
            for id, _ in others:
                doors.open(id)
            for id, connection in others:
                await told(connection, end % id.encode())
            await until(lambda: waiting(api.node) == 0)
        await until(lambda: descriptors() == before)


MOST_CALLBACKS = 8
"""Maximum number of event loop callbacks per comment; those of the client in this process are included."""


@both_servers
async def test_keeping_streams_alive_costs_a_comment_each_and_no_look_at_the_store(
    server: str, clients: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, seconds, sleeps, sleep = min(clients, each_run(100, 500)), each_run(0.25, 1.0), 0, anyio.sleep

    async def counted(delay: float) -> None:
        nonlocal sleeps
        sleeps += delay == seconds
        await sleep(delay)

    monkeypatch.setattr(_http, "KEEP_ALIVE_SECONDS", seconds)
    monkeypatch.setattr(anyio, "sleep", counted)
    store, doors = SpiedStore(), Doors()
    settings = {"store": store, "concurrency": number, "each_client": ALL_OF_IT}
    most = number + 100
    async with serving(
        server, runners=[doors], node=settings, max_connections=most, max_client_connections=most
    ) as api:
        node = api.node
        ids = await submit(node, number)
        async with asking(api.address, [f"/api/jobs/{id}/events" for id in ids]) as connections:
            for connection in connections:
                await told(connection, b"event: accepted")
            await until(lambda: waiting(node) == number)
            before = sleeps
            with observed(store, monkeypatch) as kept:
                for _ in range(2):
                    for connection in connections:
                        await told(connection, b":\n\n")
            assert (kept.wakings, kept.new_reads) == (0, 0)
            comments = sleeps - before + number  # comments sent before the first counted sleep are included
            assert kept.callbacks < comments * MOST_CALLBACKS
            print(f"\n{server}: {number} on streams, at least 2 comments each: {kept.callbacks} callbacks,", end=" ")
            print(f"{kept.cpu_seconds / comments * 1e6:.0f} µs of processor time for each, its client's included")
