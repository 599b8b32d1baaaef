"""Load: more jobs than a process has descriptors for, very many jobs of one client, and stopping.

In drills it is five thousand jobs at once, and a hundred thousand of one client.
"""

import asyncio
import json
import signal
import statistics
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from chance import each_run
from components import SwitchRunner, make_node, until, until_is
from http_api import Api
from msgspec.structs import replace
from served import Served, serve
from service_process import service

from nodekit import ClientLimits, Container, ContainerOutput, EmbeddedStore, JobRequest, Node, Step, encode_payload
from nodekit_memory import MemoryTable
from nodekit_sqlite import SqliteTable

pytestmark = pytest.mark.anyio

MEGABYTE = 1024 * 1024

NODE_FILE = """
[node]
{node}

[store]
use = "sqlite"
path = "jobs.db"

[[runners]]
use = "remote"
{containers}

[[transports]]
use = "asgi"
bind = "127.0.0.1:0"
server = "{server}"
max_client_connections = 100000
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def node_file(folder: Path, containers: dict[str, str], server: str = "hypercorn", **node: Any) -> Path:
    """Write a node file; `containers` maps ids to their keys."""
    tables = "".join(f'[[runners.containers]]\nid = "{id}"\n{text}\n' for id, text in containers.items())
    file = folder / "node.toml"
    settings = "\n".join(f"{key} = {value}" for key, value in node.items())
    settings += "\n[node.each_client]\nconcurrency = 10_000\nmax_pending = 10_000"  # all clients have one address
    file.write_text(NODE_FILE.format(containers=tables, server=server, node=settings))
    return file


async def counts_of(url: str) -> Any:
    """Return the counters of a service."""
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return json.loads(await response.read())


async def called(url: str, ids: Collection[str]) -> bool:
    """Return True if a service has been asked for the first step of each of these jobs."""
    calls = (await counts_of(url))["calls"]
    return all(f"{id}:0" in calls for id in ids)


# -- more jobs in flight than descriptors -------------------------------------------------------------

JOBS = each_run(600, 5000)
CLIENTS = each_run(150, 500)
OPEN_FILES = each_run(128, 1024)


class Watch:
    """Samples a node's process, and asks for its health, again and again."""

    def __init__(self, served: Served, api: Api) -> None:
        self.served, self.api = served, api
        self.resident: list[int] = []
        self.descriptors: list[int] = []
        self.statuses: list[int] = []
        self.seconds: list[float] = []

    async def look(self) -> None:
        while True:
            self.resident.append(self.served.resident_bytes)
            self.descriptors.append(self.served.descriptors)
            begun = time.perf_counter()
            self.statuses.append((await self.api.get("/health")).status)
            self.seconds.append(time.perf_counter() - begun)
            await asyncio.sleep(0.02)

    def __str__(self) -> str:
        low, middle, high = min(self.seconds), statistics.median(self.seconds), max(self.seconds)
        first, last = self.resident[0], self.resident[-1]
        return (
            f"/health {len(self.seconds)} times, {low * 1000:.0f}/{middle * 1000:.0f}/{high * 1000:.0f} ms "
            f"(min/median/max); at most {max(self.descriptors)} descriptors; resident {first / MEGABYTE:.0f} MB, "
            f"at most {max(self.resident) / MEGABYTE:.0f} MB, {last / MEGABYTE:.0f} MB at the end"
        )


@asynccontextmanager
async def watched(served: Served, api: Api) -> AsyncIterator[Watch]:
    watch = Watch(served, api)
    task = asyncio.create_task(watch.look())
    try:
        yield watch
    finally:
        task.cancel()


@asynccontextmanager
async def one_connection(url: str) -> AsyncIterator[Api]:
    """Open a client with one connection of its own, kept until it leaves."""
    connector = aiohttp.TCPConnector(limit=1)
    timeout = aiohttp.ClientTimeout(total=90)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield Api(url, session)


async def submit_some(url: str, container: str, number: int) -> list[str]:
    async with one_connection(url) as api:
        return [await api.submit(container, n=n) for n in range(number)]


async def wait_for(url: str, ids: list[str]) -> list[Any]:
    query = "&".join(f"id={id}" for id in ids)
    async with one_connection(url) as api:
        jobs: list[Any] = []
        while not jobs or any(job["status"] == "running" for job in jobs):
            jobs = (await api.get(f"/api/jobs?{query}&wait=60")).json
        return jobs


async def from_many_clients(url: str, container: str, jobs: int) -> list[list[str]]:
    each = jobs // CLIENTS
    return await asyncio.gather(*(submit_some(url, container, each) for _ in range(CLIENTS)))


@pytest.mark.parametrize("server", each_run(["hypercorn"], ["hypercorn", "uvicorn"]))
async def test_more_jobs_in_flight_and_more_clients_than_there_are_descriptors(tmp_path: Path, server: str) -> None:
    async with service() as url:
        containers = {"second": f'url = "{url}/held/0.1"', "quick": f'url = "{url}/0.0"'}
        file = node_file(tmp_path, containers, server, concurrency=JOBS)
        async with serve(file, open_files=OPEN_FILES) as (served, api):
            warm_up = await from_many_clients(api.url, "quick", CLIENTS)
            await asyncio.gather(*(wait_for(api.url, ids) for ids in warm_up))
            async with watched(served, api) as watch:
                begun = time.perf_counter()
                ids_of = await from_many_clients(api.url, "second", JOBS)
                submitted = time.perf_counter()
                assert (await api.get("/info")).json["pending"]["offchain"] == JOBS
                looked = len(watch.resident)
                await api.session.post(f"{url}/open")
                answers = await asyncio.gather(*(wait_for(api.url, ids) for ids in ids_of))
                ended = time.perf_counter()
            seen = await counts_of(url)
            times = f"submitted in {submitted - begun:.1f} s, done {ended - submitted:.1f} s later"
            print(f"\n{server}: {JOBS} jobs of {CLIENTS} clients, {times}; {seen['most']} calls at once; {watch}")
            assert [[job["id"] for job in jobs] for jobs in answers] == ids_of
            assert {job["status"] for jobs in answers for job in jobs} == {"success"}
            assert seen["once"] == len(seen["calls"]) == JOBS + CLIENTS
            assert set(watch.statuses) == {200}
            assert max(watch.descriptors) < OPEN_FILES - 24
            assert "Too many open files" not in served.log
            assert "no descriptor" not in served.log
            assert "Traceback" not in served.log
            assert max(watch.resident) < watch.resident[0] + each_run(20, 40) * MEGABYTE
            assert max(watch.resident[looked:], default=0) < max(watch.resident[:looked]) + each_run(10, 20) * MEGABYTE
            served.signal(signal.SIGTERM)
            assert await served.ended() == 0


# -- very many jobs of one client ---------------------------------------------------------------------

BACKLOG = each_run(5_000, 100_000)
AT_ONCE = 8
TABLES: dict[str, Callable[[Path], Any]] = {
    "memory": lambda folder: MemoryTable(),
    "sqlite": lambda folder: SqliteTable(folder / "jobs.db"),
}


class Turnstile(SwitchRunner):
    """Holds each started step, lets them go one by one, and counts them."""

    def __init__(self) -> None:
        super().__init__(*(Container(id=id) for id in ("c0", "c1", "c2")), run=self._hold)
        self.begun: dict[str, int] = {}
        """Number of steps that had started before each job."""
        self.free = False
        self._held: deque[anyio.Event] = deque()

    async def _hold(self, step: Step) -> ContainerOutput:
        self.begun[step.job_id] = len(self.steps) - 1
        if self.free:
            await anyio.sleep(0.001)
        else:
            self._held.append(event := anyio.Event())
            await event.wait()
        return ContainerOutput(container=step.container, output=encode_payload(None))

    async def let_one_go(self) -> None:
        """Let one step go, and wait until the next one has started."""
        started = len(self.steps)
        self._held.popleft().set()
        await until(lambda: len(self.steps) > started)

    def open(self) -> None:
        self.free = True
        while self._held:
            self._held.popleft().set()


@dataclass
class Busy:
    """A node whose slots are all taken by a client with very many jobs."""

    node: Node
    runner: Turnstile

    async def accepted(self, container: str, client: str, priority: int = 3) -> tuple[str, int]:
        """Submit a job; return its id and the number of steps started by then."""
        job = await self.node.submit(replace(JobRequest.of(container, data={}, client=client), priority=priority))
        return job.id, len(self.runner.steps)

    async def steps_before(self, id: str, accepted_at: int) -> int:
        """Return the number of other steps that start between a job's acceptance and its own start."""
        while id not in self.runner.begun:
            await self.runner.let_one_go()
            assert len(self.runner.steps) < accepted_at + 100
        return self.runner.begun[id] - accepted_at

    async def of_ten_clients(self, containers: Sequence[str]) -> list[int]:
        """Return `steps_before` for jobs of ten clients that always have a job waiting."""
        before: list[int] = []
        for n in range(10):
            jobs = [await self.accepted(containers[(n + k) % len(containers)], f"client {k}") for k in range(10)]
            before += [await self.steps_before(*job) for job in jobs]
        return before


@asynccontextmanager
async def busy(table: Any) -> AsyncIterator[Busy]:
    runner = Turnstile()
    each = ClientLimits(concurrency=AT_ONCE, max_pending=2 * BACKLOG)
    settings = {"concurrency": AT_ONCE, "max_pending": 2 * BACKLOG, "each_client": each, "drain_seconds": 0}
    async with make_node(runner, store=EmbeddedStore(table), **settings) as node:
        begun = time.perf_counter()
        for _ in range(0, BACKLOG, 1000):
            containers = ["c0"] * 600 + ["c1"] * 300 + ["c2"] * 100
            await node.submit_many([JobRequest.of(id, data={}, client="alice") for id in containers])
        print(f"\n{type(table).__name__}: {BACKLOG} jobs added in {time.perf_counter() - begun:.1f} s")
        await until(lambda: len(runner.steps) == AT_ONCE)
        yield Busy(node, runner)


@pytest.mark.parametrize("table", each_run(["sqlite"], [*TABLES]))  # whose turn it is, is not decided by the table
async def test_a_client_with_very_many_jobs_makes_others_wait_for_no_more_than_its_turn(
    tmp_path: Path, table: str
) -> None:
    async with busy(TABLES[table](tmp_path)) as node:
        one = [await node.steps_before(*await node.accepted("c0", "bob")) for _ in range(30)]
        assert max(one) <= 1  # alice's turn may come first
        three = [await node.steps_before(*await node.accepted(f"c{n % 3}", "bob")) for n in range(30)]
        assert max(three) <= 2  # and once more in the container that it waits for

        urgent = [await node.steps_before(*await node.accepted(f"c{n % 3}", "alice", 0)) for n in range(10)]
        assert max(urgent) == 0
        late = await node.accepted("c1", "bob", 4)
        assert await node.steps_before(*await node.accepted("c1", "bob", 2)) == 0
        assert late[0] not in node.runner.begun

        ten = await node.of_ten_clients(["c0"])
        assert max(ten) <= 10  # each of the others, alice among them, once
        ten_in_three = await node.of_ten_clients(["c0", "c1", "c2"])
        assert max(ten_in_three) <= 20

        node.runner.open()
        flowing = []
        for n in range(50):
            id, accepted_at = await node.accepted(f"c{n % 3}", "carol")
            await until(lambda id=id: id in node.runner.begun)
            flowing.append(max(0, node.runner.begun[id] - accepted_at))
        assert max(flowing) <= AT_ONCE + 2  # jobs that were claimed already, and alice's turns
        print(f"steps before one's own, at most: {max(one)}, in three containers {max(three)};", end=" ")
        print(f"among ten clients {max(ten)}, {max(ten_in_three)}; while steps end on their own {max(flowing)}")
        assert (await node.node.pending(["alice"])).groups["alice"] > BACKLOG / 10  # she was there all the while


# -- stopping under load ------------------------------------------------------------------------------

ONCE, TWICE = [signal.SIGTERM], [signal.SIGTERM, signal.SIGTERM]


async def submit_batch(api: Api, container: str, number: int) -> list[str]:
    items = [{"containers": [container], "data": {"n": n}} for n in range(number)]
    return [item["id"] for item in (await api.post("/api/jobs/batch", items)).json]


async def stop_under_load(served: Served, api: Api, signals: list[signal.Signals], held: str) -> float:
    """Signal the node and check that it serves meanwhile; return the time from the last signal to the end."""
    asked = asyncio.create_task(api.get(f"/api/jobs?id={held}&wait=60"))
    await api.get("/health")  # so that the other request has arrived, too
    served.signal(signals[0])
    await until(lambda: "draining" in served.log)
    if signals == TWICE:  # it drains long enough to look at it
        refused = await api.post("/api/jobs", {"containers": ["held"], "data": {"n": 0}})
        assert (refused.status, int(refused.headers["Retry-After"]) >= 1) == (503, True)
        assert (await api.get(f"/api/jobs?id={held}")).json[0]["status"] == "running"
        assert (await api.get("/health")).status == 503
        assert not asked.done()
        await asyncio.sleep(1)  # a second signal counts from then on
    begun = time.perf_counter()
    for number in signals[1:]:
        served.signal(number)
    assert await served.ended() == 0
    seconds = time.perf_counter() - begun
    answer = await asked  # a client that waits for a released job gets its present state
    assert (answer.status, answer.json[0]["status"]) == (200, "running")
    return seconds


STOPS = [("hypercorn", ONCE), ("uvicorn", TWICE), *each_run([], [("uvicorn", ONCE), ("hypercorn", TWICE)])]


@pytest.mark.parametrize(("server", "signals"), STOPS, ids=[f"{server}, {len(stop)} signals" for server, stop in STOPS])
async def test_a_node_that_is_stopped_under_load_ends_in_time_and_loses_nothing(
    tmp_path: Path, server: str, signals: list[signal.Signals]
) -> None:
    drain_seconds = 1 if signals == ONCE else 600
    async with service() as url:
        retry = "retry = { attempts = 2, first_delay_seconds = 0 }"
        containers = {
            "held": f'url = "{url}/held/0.0"\nconcurrency = 30',
            "busy": f'url = "{url}/1.0"\nconcurrency = 20',
            "second": f'url = "{url}/second/0.0"\n{retry}',
        }
        file = node_file(tmp_path, containers, server, concurrency=100, drain_seconds=drain_seconds)
        async with serve(file) as (served, api):
            held, second = await submit_batch(api, "held", 50), await submit_batch(api, "second", 20)
            await until_is(lambda: states(api, second), {"waiting"})
            busy = await submit_batch(api, "busy", 250)
            await until_is(lambda: states(api, busy[:1]), {"success"})
            await until_is(lambda: called(url, [*held[:30], *second]), True)
            seconds = await stop_under_load(served, api, signals, held[0])
            assert "Traceback" not in served.log
            assert ("not drained within 1 s" in served.log) == (signals == ONCE)
            assert ("stopping at once" in served.log) == (signals == TWICE)
        before = (await counts_of(url))["calls"]
        assert all(before[f"{id}:0"] == 1 for id in [*held[:30], *second])
        assert not any(f"{id}:0" in before for id in [*held[30:], *busy[-100:]])
        text = f"ended {seconds:.1f} s after the last of {len(signals)} signals"
        print(f"\n{server}: {text}, drain_seconds = {drain_seconds}")
        async with serve(file) as (served, api):
            await api.session.post(f"{url}/open")
            jobs = await api.results(*held, *second, *busy)
            attempts = [await attempts_of(api, id) for id in second]
            assert (await api.get("/api/jobs")).json == [*held, *second, *busy]
        after = (await counts_of(url))["calls"]
    assert {job["status"] for job in jobs} == {"success"}
    assert {after[f"{id}:0"] for id in held[:30]} == {2}  # released, and started again
    assert {after[f"{id}:0"] for id in held[30:]} == {1}
    assert {after[f"{id}:0"] for id in second} == {2}
    assert attempts == [[503, None]] * len(second)  # attempts that failed before the end still count
    assert {after[f"{id}:0"] for id in busy} <= {1, 2}  # 2: still running when the time to drain was over


async def states(api: Api, ids: list[str]) -> set[str]:
    return {(await api.get(f"/api/jobs/{id}")).json["state"] for id in ids}


async def attempts_of(api: Api, id: str) -> list[int | None]:
    """Return the HTTP status of each attempt: None if it succeeded."""
    (step,) = (await api.get(f"/api/jobs/{id}")).json["steps"]
    return [attempt.get("status") for attempt in step["attempts"]]
