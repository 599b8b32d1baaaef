"""A drill: a real node under constant load is killed again and again, and all its answers must stay true.

One set of clients works through all lives of the node, and retries as the documentation asks. These rules must hold:

- the node has each job that it gave an id for, lists them in order and finishes them; ids of new jobs are greater;
- a step is never called again if its result was stored at the moment of a kill;
- a final answer never changes;
- one idempotency key is one job;
- a second node on the same file is refused.
"""

import asyncio
import json
import random
import signal
import sqlite3
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from components import until
from http_api import Answer, Api
from served import Served, started

STEPS = 3
CLIENTS = 12
LIFE_SECONDS = 1.0
"""Maximum lifetime of a node after it begins to listen, in seconds."""
POISON = "poison"

KILL, DRAIN, DRAIN_THEN_STOP = (signal.SIGKILL,), (signal.SIGTERM,), (signal.SIGTERM, signal.SIGTERM)

EXIT_CODES = {KILL: [-signal.SIGKILL], DRAIN: [0], DRAIN_THEN_STOP: [0, -signal.SIGTERM]}
"""Exit codes by signals. A second signal may come when the node no longer listens for signals."""

NODE_FILE = """
[node]
concurrency = 64
max_pending = 300
drain_seconds = 1

[node.each_client]  # all clients of a drill call from one address
concurrency = 64
max_pending = 300

[store]
use = "sqlite"
path = "jobs.db"

[[runners]]
use = "remote"
{containers}

[[transports]]
use = "asgi"
bind = "127.0.0.1:0"
"""
CONTAINER = """
[[runners.containers]]
id = "c{number}"
url = "http://127.0.0.1:{port}/{number}"
retry = {{ attempts = 4, first_delay_seconds = 0.05 }}
"""


class Services:
    """Containers that add one to a number. Every fifth step fails the first time, a poisoned one always."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.jobs_of_token: defaultdict[str, set[str]] = defaultdict(set)
        self.port = 0

    async def answer(self, request: web.Request) -> web.Response:
        key = request.headers["Idempotency-Key"]
        self.calls[key] += 1
        data = (await request.json())["data"]
        self.jobs_of_token[data["token"]].add(key.partition(":")[0])
        await asyncio.sleep(0.002 * (sum(key.encode()) % 10))
        if data.get(POISON) and request.path.startswith("/1/"):
            return web.Response(status=500)
        if sum(key.encode()) % 5 == 0 and self.calls[key] == 1:
            return web.Response(status=503)
        return web.json_response({**data, "n": data["n"] + 1})


@asynccontextmanager
async def services() -> AsyncIterator[Services]:
    all_of_them = Services()
    app = web.Application()
    app.router.add_post("/{name}/service_output", all_of_them.answer)
    runner = web.AppRunner(app, handler_cancellation=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    all_of_them.port = runner.addresses[0][1]
    try:
        yield all_of_them
    finally:
        await runner.cleanup()


@dataclass
class Figures:
    """Results of a drill. Each list in the second half must be empty."""

    seed: int
    kills: int = 0
    drains: int = 0
    kills_while_starting: int = 0
    jobs: int = 0
    resubmissions: int = 0
    seconds: float = 0.0
    listening_after: list[float] = field(default_factory=list)

    lost: list[str] = field(default_factory=list)
    called_again: list[str] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Other faults: an unexpected status, a wrong result, two jobs for one key."""

    @property
    def faults(self) -> list[str]:
        return [*self.lost, *self.called_again, *self.contradictions, *self.wrong]

    def __str__(self) -> str:
        starts = sorted(self.listening_after)
        return "\n".join(
            [
                f"seed                                    {self.seed}",
                f"kills (while it was starting), drains   {self.kills} ({self.kills_while_starting}), {self.drains}",
                f"jobs accepted, per second               {self.jobs}, {self.jobs / self.seconds:.0f}",
                f"resubmissions with a key                {self.resubmissions}",
                f"ids lost                                {len(self.lost)}",
                f"steps called again although stored      {len(self.called_again)}",
                f"contradicting answers                   {len(self.contradictions)}",
                f"anything else that is wrong             {len(self.wrong)}",
                "seconds until it listens, min/med/max   "
                f"{starts[0]:.2f} / {statistics.median(starts):.2f} / {starts[-1]:.2f}",
                *(f"  {fault}" for fault in self.faults[:20]),
            ]
        )


class Memory:
    """The node's answers so far."""

    def __init__(self, figures: Figures) -> None:
        self.figures = figures
        self.given: dict[str, dict[str, Any]] = {}
        """Data of each job that the node gave an id for."""
        self.reported: dict[str, Any] = {}
        """Final answers, by job id."""
        self.keys: dict[str, tuple[str, str | None]] = {}
        """Request body and job id by idempotency key; the id is there if the answer arrived."""

    def gave(self, id: str, body: Mapping[str, Any]) -> None:
        if id not in self.given:
            self.figures.jobs += 1
        self.given[id] = dict(body["data"])

    def gave_for_key(self, key: str, id: str) -> None:
        body, before = self.keys[key]
        if before not in (None, id):
            self.figures.wrong.append(f"key {key} was {before} and is {id}")
        self.keys[key] = body, id
        self.gave(id, json.loads(body))

    def known(self, ids: Iterable[str]) -> set[str]:
        """Return the ids known to be finished. Call it before a question is asked, for answers overtake each other."""
        return {id for id in ids if id in self.reported}

    def reports(self, job: dict[str, Any], known: set[str]) -> None:
        """Compare a JobResult with earlier ones: final ones stay. `known` were final before the question."""
        id, final = job["id"], job["status"] != "running"
        if id in known if not final else self.reported.get(id, job) != job:
            self.figures.contradictions.append(f"{id} was {self.reported[id]} and is {job}")
        elif final:
            self.reported[id] = job

    def check_result(self, id: str) -> None:
        job, data = self.reported[id], self.given[id]
        status, result = job["status"], job["result"]
        if status == "success":
            fits = result["output"]["n"] == data["n"] + STEPS and not data.get(POISON)
        else:
            fits = result["error"] == "cancelled" or (data.get(POISON) and result["container"] == "c1")
        if not fits:
            self.figures.wrong.append(f"{id} with {data} ended as {job}")


class Client:
    """A client of the node; it comes back when the node does."""

    def __init__(self, number: int, drill: "Drill") -> None:
        self.random = random.Random(f"{drill.figures.seed}/{number}")
        self.drill, self.memory = drill, drill.memory
        self.number = number
        self.count = 0
        self.mine: list[str] = []
        self.keys: list[str] = []

    async def work(self) -> None:
        actions: Sequence[Callable[[], Awaitable[None]]] = (
            *([self.submit] * 5 + [self.resubmit] * 3 + [self.batch] * 2),
            *([self.fetch] * 4 + [self.wait] * 2 + [self.cancel] * 2 + [self.page]),
        )
        while True:
            await self.drill.listening.wait()
            try:
                await self.random.choice(actions)()
            except (aiohttp.ClientError, OSError, TimeoutError):
                await asyncio.sleep(0.01)  # it is dead, or dying

    def body(self) -> dict[str, Any]:
        self.count += 1
        data: dict[str, Any] = {"n": self.count, "token": f"{self.number}-{self.count}"}
        if self.random.random() < 0.03:
            data[POISON] = True
        return {"containers": [f"c{n}" for n in range(STEPS)], "data": data}

    async def expect(self, answer: Answer, *also: int) -> bool:
        """Return True if the request succeeded; a node that is full or draining is asked again later."""
        if answer.status == 503:
            await asyncio.sleep(0.05)
        elif answer.status not in (200, *also):
            self.memory.figures.wrong.append(f"{answer.status} {answer.body!r}")
        return answer.status == 200

    async def submit(self) -> None:
        body, key = self.body(), f"key-{self.number}-{self.count}"
        self.memory.keys[key] = json.dumps(body), None
        self.keys.append(key)
        await self.send(key)

    async def resubmit(self) -> None:
        """Submit an earlier request again, mostly a recent one whose answer may have been lost."""
        if self.keys:
            self.memory.figures.resubmissions += 1
            await self.send(self.random.choice(self.keys[-20:]))

    async def send(self, key: str) -> None:
        body, _ = self.memory.keys[key]
        answer = await self.drill.api.post("/api/jobs", body, headers={"Idempotency-Key": key})
        if await self.expect(answer):
            self.memory.gave_for_key(key, answer.json["id"])
            self.mine.append(answer.json["id"])

    async def batch(self) -> None:
        bodies = [self.body() for _ in range(self.random.randint(1, 20))]
        answer = await self.drill.api.post("/api/jobs/batch", bodies)
        if await self.expect(answer):
            for body, item in zip(bodies, answer.json, strict=True):
                if "id" in item:
                    self.memory.gave(item["id"], body)
                    self.mine.append(item["id"])

    def some(self) -> list[str]:
        return self.random.sample(self.mine, min(len(self.mine), self.random.randint(1, 30)))

    async def fetch(self, more: str = "") -> None:
        if ids := self.some():
            known = self.memory.known(ids)
            answer = await self.drill.api.get(f"/api/jobs?{'&'.join(f'id={id}' for id in ids)}{more}")
            if await self.expect(answer):
                self.drill.compare(ids, answer.json, known)

    async def wait(self) -> None:
        await self.fetch("&wait=0.3")

    async def cancel(self) -> None:
        if self.mine and self.random.random() < 0.3:
            id = self.random.choice(self.mine[-50:])
            answer = await self.drill.api.call("DELETE", f"/api/jobs/{id}")
            if await self.expect(answer):
                self.memory.reports(answer.json, set())

    async def page(self) -> None:
        known = set(self.memory.reported)
        answer = await self.drill.api.get("/api/jobs?pending=true&limit=50")
        if await self.expect(answer) and (done := known.intersection(answer.json)):
            self.memory.figures.contradictions.append(f"{done} are finished and listed as pending")


class Drill:
    """The lives and deaths of one node."""

    def __init__(self, folder: Path, containers: Services, seed: int) -> None:
        self.figures = Figures(seed)
        self.memory = Memory(self.figures)
        self.listening = asyncio.Event()
        self.api: Api
        self._random = random.Random(seed)
        self._folder, self._containers = folder, containers
        self._file = folder / "node.toml"
        tables = [CONTAINER.format(number=number, port=containers.port) for number in range(STEPS)]
        self._file.write_text(NODE_FILE.format(containers="".join(tables)))
        self._sealed: dict[str, int] = {}
        """Number of calls of each step with a stored result."""

    @property
    def database(self) -> Path:
        return self._folder / "jobs.db"

    async def run(
        self,
        rounds: int,
        ends: Sequence[tuple[signal.Signals, ...]],
        sabotage: Callable[[Path, Sequence[str]], None] | None = None,
    ) -> Figures:
        """Run the drill. `sabotage` is called after the first life with the ids of jobs that succeeded."""
        begun = time.monotonic()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
            clients = [asyncio.create_task(Client(number, self).work()) for number in range(CLIENTS)]
            try:
                for number in range(rounds):
                    if sabotage is not None and number == 0:
                        await self._life(session, ends[0], reports=20)
                        reported = self.memory.reported.items()
                        sabotage(self.database, [id for id, job in reported if job["status"] == "success"])
                    else:
                        await self._life(session, ends[number % len(ends)])
                await self._last_life(session, clients)
            finally:
                for client in clients:
                    client.cancel()
                await asyncio.gather(*clients, return_exceptions=True)
        self.figures.seconds = time.monotonic() - begun
        self._look_at_calls()
        return self.figures

    async def _life(self, session: aiohttp.ClientSession, end: tuple[signal.Signals, ...], reports: int = 0) -> None:
        """Run one life of the node; it ends after the node reported this many finished jobs."""
        async with started("serve", self._file, "--log-level", "warning", folder=self._folder) as served:
            if not reports and self._random.random() < 0.1:
                await asyncio.sleep(self._random.uniform(0, statistics.mean(self.figures.listening_after or [1])))
                self.figures.kills_while_starting += not served.url
                end = KILL
            else:
                await self._begin(served, session)
                await asyncio.sleep(self._random.uniform(0, LIFE_SECONDS))
                await until(lambda: len(self.memory.reported) >= reports)
            for number in end:
                served.signal(number)
                await asyncio.sleep(self._random.uniform(0, 0.2) if number == signal.SIGTERM else 0)
            code = await served.ended()
        self.listening.clear()
        self.figures.kills += end == KILL
        self.figures.drains += end != KILL
        if code not in EXIT_CODES[end]:
            self.figures.wrong.append(f"exit code {code} after {end}: {served.log[-2000:]}")
        self._seal()

    async def _begin(self, served: Served, session: aiohttp.ClientSession) -> None:
        begun = time.monotonic()
        await until(lambda: served.url or served.process.poll() is not None)
        assert served.url, served.log
        self.figures.listening_after.append(time.monotonic() - begun)
        self.api = Api(served.url, session)
        self.listening.set()

    async def _last_life(self, session: aiohttp.ClientSession, clients: Sequence[asyncio.Task[None]]) -> None:
        """Stop all clients, let every job finish, and ask for each id and key once more."""
        async with started("serve", self._file, "--log-level", "warning", folder=self._folder) as served:
            await self._begin(served, session)
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
            for key, (body, id) in self.memory.keys.items():
                answer = await self.api.post("/api/jobs", body, headers={"Idempotency-Key": key})
                while answer.status == 503:  # it is full of jobs whose answers were lost
                    await asyncio.sleep(0.05)
                    answer = await self.api.post("/api/jobs", body, headers={"Idempotency-Key": key})
                if id is None or answer.status != 200 or answer.json["id"] != id:
                    self.memory.gave_for_key(key, answer.json["id"])
            ids = list(self.memory.given)
            for first in range(0, len(ids), 200):
                some = ids[first : first + 200]
                self.compare(some, await self._finished(some), self.memory.known(some))
            for id in self.memory.reported:
                self.memory.check_result(id)
            await self._look_at_list()
            await self._try_a_second_node()
            served.signal(signal.SIGTERM)
            if (code := await served.ended()) != 0:
                self.figures.wrong.append(f"exit code {code} at the end: {served.log[-2000:]}")
        self._seal()

    async def _look_at_list(self) -> None:
        """Check that the list has all jobs in order, and that a new one comes after them."""
        listed: list[str] = (await self.api.get("/api/jobs")).json
        if listed != sorted(listed):
            self.figures.wrong.append("the list of jobs is not in their order")
        self.figures.lost += sorted({*self.memory.given} - {*listed, *self.figures.lost})
        answer = await self.api.post("/api/jobs", {"containers": ["c0"], "data": {"n": 0, "token": "last"}})
        if answer.json["id"] <= listed[-1]:
            self.figures.wrong.append(f"a new job is {answer.json['id']}, and there is {listed[-1]}")

    async def _try_a_second_node(self) -> None:
        async with started("serve", self._file, folder=self._folder) as second:
            code = await second.ended()
        if code != 1 or "held by another node" not in second.log or "Traceback" in second.log:
            self.figures.wrong.append(f"a second node on the same file ended with {code}: {second.log[-2000:]}")

    async def _finished(self, ids: Sequence[str]) -> list[Any]:
        """Return these jobs as the node has them, once they are finished."""
        query = "&".join(f"id={id}" for id in ids)
        answer = await self.api.get(f"/api/jobs?{query}&wait=5")
        async with asyncio.timeout(60):
            while answer.status == 200 and any(job["status"] == "running" for job in answer.json):
                answer = await self.api.get(f"/api/jobs?{query}&wait=5")
        if answer.status != 200:
            self.figures.wrong.append(f"{answer.status} {answer.body!r}")
            return []
        return list(answer.json)

    def compare(self, ids: Sequence[str], jobs: Sequence[Any], known: set[str]) -> None:
        """Compare an answer about known jobs with earlier ones."""
        for job in jobs:
            self.memory.reports(job, known)
        there = {job["id"] for job in jobs}
        self.figures.lost += [id for id in ids if id not in there and id not in self.figures.lost]

    def _seal(self) -> None:
        """Record the stored steps while no node runs: none of them may be called again."""
        query = "SELECT id, place & 0xffffff FROM records JOIN jobs ON place >> 24 = jobs.number WHERE done = 1"
        with suppress(sqlite3.OperationalError), closing(sqlite3.connect(self.database)) as connection:
            for id, number in connection.execute(f"{query} AND place & 0xffffff > 0"):
                key = f"{id}:{number - 1}"
                self._sealed.setdefault(key, self._containers.calls[key])

    def _look_at_calls(self) -> None:
        calls = self._containers.calls
        self.figures.called_again += [key for key, count in self._sealed.items() if calls[key] > count]
        for token, ids in self._containers.jobs_of_token.items():
            if len(ids) > 1:
                self.figures.wrong.append(f"{token} became the jobs {ids}")
