"""The load: clients that do everything that clients do, and keep a ledger of what they were promised."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urljoin
from uuid import uuid4

import aiohttp
from http_api import Answer, Api

from soak.ledger import Expected, Ledger
from soak.lives import Lives

GONE = (aiohttp.ClientError, OSError, TimeoutError, asyncio.IncompleteReadError)
BUSY = (429, 503)
FAULTS = ("hang", "rubbish", "nonsense", "status", "short", "close")
PAUSE_SECONDS = 0.5
"""Average pause of a worker between two actions."""
WORKERS = 2
IDS = 200


class Client:
    """A client with an address of its own. Some workers act, and one task asks for the results of all its jobs."""

    def __init__(self, number: int, lives: Lives, ledger: Ledger, seed: int, session: aiohttp.ClientSession) -> None:
        self.random = random.Random(f"{seed}/{number}")
        self.lives, self.ledger, self.session = lives, ledger, session
        self.address = f"127.0.0.{number}"
        self.open: dict[str, Expected] = {}
        self.broken = 0
        self.failed_ids: list[str] = []

    @property
    def api(self) -> Api:
        return Api(self.lives.url, self.session)

    async def work(self, stop: asyncio.Event) -> None:
        actions: list[Callable[[], Awaitable[None]]] = [
            *[self.single] * 14,
            *[self.waited] * 14,
            *[self.batch] * 8,
            *[self.large] * 2,
            *[self.stream] * 4,
            *[self.abandoned_stream] * 2,
            *[self.slow_reader],
            *[self.events] * 4,
            *[self.abandoned_events],
            *[self.listing] * 3,
            *[self.history] * 3,
            *[self.cancel] * 3,
            *[self.retry] * 2,
            *[self.bad_request] * 4,
            *[self.vanish] * 3,
            *[self.faulty] * 2,
            *[self.about] * 3,
        ]
        while not stop.is_set():
            await self.lives.listening.wait()
            try:
                async with asyncio.timeout(60):
                    await self.random.choice(actions)()
            except GONE:
                self.broken += 1  # the node was killed, or is about to be
            await asyncio.sleep(self.random.expovariate(1 / PAUSE_SECONDS))

    async def check(self) -> None:
        """Ask for the results of all jobs, until cancelled."""
        while True:
            await self.lives.listening.wait()
            ids = list(self.open)[:IDS]
            try:
                if ids:
                    await self._settle(ids)
            except GONE:
                self.broken += 1
            await asyncio.sleep(0.3)

    async def _settle(self, ids: list[str]) -> None:
        answer = await self.api.get(f"/api/jobs?{'&'.join(f'id={id}' for id in ids)}&wait=1")
        if answer.status in BUSY or not self._expect(answer, 404):
            return
        found = {result["id"]: result for result in answer.json} if answer.status == 200 else {}
        for id in ids:
            expected = self.open.pop(id)
            if id not in found:
                self.ledger.miss(id, expected)
            elif found[id]["status"] == "running":
                expected.seen_at = time.monotonic()
                self.open[id] = expected  # behind all others
            else:
                self.ledger.settle(id, expected, found[id])
                if found[id]["status"] == "failed":
                    self.failed_ids = [*self.failed_ids[-20:], id]

    def _expect(self, answer: Answer, *also: int) -> bool:
        if answer.status not in (200, *also, *BUSY):
            self.ledger.wrong.append(f"status {answer.status}: {answer.body[:200]!r}")
        return answer.status in (200, *also)

    def enter(self, id: str, expected: Expected) -> None:
        if id not in self.open:  # a job that was asked for again is the same one
            self.ledger.accepted += 1
            self.open[id] = expected

    # -- jobs -----------------------------------------------------------------------------------------

    def job(self, pad: int = 0, **data: Any) -> tuple[dict[str, Any], Expected]:
        """Draw a request of one to three steps, and what will come out."""
        steps = self.random.choices(["work", "spare", "local", "far"], k=self.random.randint(1, 3))
        n = self.random.randrange(1000)
        return {"containers": steps, "data": {"n": n, "pad": "x" * pad, **data}}, Expected(n + len(steps), pad)

    async def send(self, body: Any, expected: Expected, **headers: str) -> str | None:
        """Submit a job until there is an answer, by a key that makes it one job; return its id."""
        text, headers = json.dumps(body), {"Idempotency-Key": uuid4().hex, **headers}
        while True:
            try:
                answer = await self.api.post("/api/jobs", text, headers=headers)
                break
            except GONE:
                self.broken += 1
                await asyncio.sleep(0.2)
                await self.lives.listening.wait()
        if answer.status in BUSY or not self._expect(answer, 202):
            return None
        id: str = answer.json["id"]
        self.enter(id, expected)
        return id

    async def single(self) -> None:
        await self.send(*self.job(self.random.choice([0, 10, 1000, 10_000])))

    async def waited(self) -> None:
        await self.send(*self.job(), Prefer="wait=5")

    async def batch(self) -> None:
        jobs = [self.job(self.random.choice([0, 0, 500])) for _ in range(self.random.randint(2, 16))]
        answer = await self.api.post("/api/jobs/batch", [body for body, _ in jobs])
        if answer.status not in BUSY and self._expect(answer):
            for (_, expected), item in zip(jobs, answer.json, strict=True):
                if "id" in item:
                    self.enter(item["id"], expected)

    async def large(self) -> None:
        await self.send(*self.job(self.random.choice([100_000, 300_000, 1_000_000])))

    async def faulty(self) -> None:
        body, expected = self.job(op=self.random.choice(FAULTS))
        expected.may_fail = True
        await self.send({**body, "containers": ["frail"]}, expected)

    async def cancel(self) -> None:
        body, expected = self.job(op="slow", seconds=2)
        expected.may_fail = True
        if id := await self.send({**body, "containers": ["work", *body["containers"][1:]]}, expected):
            await asyncio.sleep(self.random.random())
            self._expect(await self.api.call("DELETE", f"/api/jobs/{id}"), 404)

    async def retry(self) -> None:
        if self.failed_ids:
            id, way = self.random.choice(self.failed_ids), self.random.choice(["failed", "start"])
            answer = await self.api.post(f"/api/jobs/{id}/retry", {"from": way})
            if answer.status not in BUSY and self._expect(answer, 404, 409) and answer.status == 200:
                self.enter(answer.json["id"], Expected(may_fail=True))

    # -- streams and events ---------------------------------------------------------------------------

    @asynccontextmanager
    async def _streaming(self, pieces: int, size: int) -> AsyncIterator[aiohttp.ClientResponse | None]:
        body = {"containers": ["work"], "data": {"op": "stream", "pieces": pieces, "size": size}}
        async with self.session.post(f"{self.lives.url}/api/jobs/stream", json=body) as reply:
            if reply.status != 200:
                if reply.status not in BUSY:
                    self.ledger.wrong.append(f"stream: status {reply.status}")
                yield None
                return
            id = (await reply.content.readline()).decode().strip()
            self.enter(id, Expected(may_fail=True, is_stream=True))
            yield reply

    async def stream(self) -> None:
        pieces, size = self.random.randint(1, 20), self.random.choice([10, 1000, 20_000])
        async with self._streaming(pieces, size) as reply:
            if reply and (found := len(await reply.read())) != pieces * size:
                self.ledger.wrong.append(f"a stream had {found} bytes instead of {pieces * size}")

    async def abandoned_stream(self) -> None:
        async with self._streaming(200, 1000) as reply:
            if reply:
                await reply.content.readany()
                reply.close()

    async def slow_reader(self) -> None:
        async with self._streaming(20, 20_000) as reply:
            while reply and await reply.content.read(40_000):
                await asyncio.sleep(0.2)

    async def events(self) -> None:
        if (id := await self.send(*self.job())) is None:
            return
        async with self.session.get(f"{self.lives.url}/api/jobs/{id}/events") as reply:
            text = (await reply.read()).decode() if reply.status == 200 else "event: finished"
        if reply.status not in (200, 404, *BUSY) or "event: finished" not in text:
            self.ledger.wrong.append(f"events: status {reply.status}, ended with {text[-200:]!r}")

    async def abandoned_events(self) -> None:
        data = {"n": 1, "op": "slow", "seconds": 1}
        if id := await self.send({"containers": ["work"], "data": data}, Expected(2)):
            async with self.session.get(f"{self.lives.url}/api/jobs/{id}/events") as reply:
                await reply.content.readany()
                reply.close()

    # -- questions ------------------------------------------------------------------------------------

    async def listing(self) -> None:
        query = self.random.choice(
            ["order=newest", "order=finished", "pending=true", "status=failed&error=cancelled", "status=success"]
        )
        path: str | None = f"/api/jobs?{query}&limit=100"
        for _ in range(3):
            if path is None or not self._expect(answer := await self.api.get(path)):
                return
            link = answer.headers.get("Link", "")
            path = urljoin(path, link.partition("<")[2].partition(">")[0]) if link else None

    async def history(self) -> None:
        if self.open:
            self._expect(await self.api.get(f"/api/jobs/{self.random.choice(list(self.open))}"), 404)

    async def about(self) -> None:
        path = self.random.choice(["/info", "/health", "/openapi.json", "/resources"])
        self._expect(await self.api.get(path), 503)

    async def bad_request(self) -> None:
        method, path, body, status = self.random.choice(
            [
                ("GET", "/nothing", None, 404),
                ("GET", "/info/", None, 404),
                ("PUT", "/info", b"", 405),
                ("GET", "/api/jobs?wait=x", None, 400),
                ("GET", "/api/jobs?nonsense=1", None, 400),
                ("GET", f"/api/jobs/{uuid4()}", None, 404),
                ("POST", "/api/jobs", b"{", 400),
                ("POST", "/api/jobs", b'{"containers": ["none"], "data": {}}', 400),
                ("POST", "/api/jobs", b'{"containers": ["work"], "data": "\xff"}', 400),
                ("POST", "/api/jobs", b"[" * 1000, 400),
                ("POST", "/api/jobs/batch", b"{}", 400),
                ("PUT", "/api/status", b"{}", 403),
            ]
        )
        answer = await self.api.call(method, path, data=body)
        if answer.status not in (status, *BUSY):
            self.ledger.wrong.append(f"{method} {path} {body!r}: {answer.status} instead of {status}")

    async def vanish(self) -> None:
        """Send a part of a request, or wait for a job, and be gone."""
        reader, writer = await asyncio.open_connection(*self.api.address, local_addr=(self.address, 0))
        del reader
        body = json.dumps(self.job(1000)[0]).encode()
        head = f"POST /api/jobs HTTP/1.1\r\nHost: x\r\nPrefer: wait=20\r\nContent-Length: {len(body)}\r\n\r\n"
        data = head.encode() + body
        with suppress(OSError):
            writer.write(data[: self.random.choice([5, 60, len(head) + 10, len(data)])])
            await writer.drain()
            await asyncio.sleep(self.random.random() / 4)
        writer.transport.abort()


@asynccontextmanager
async def session_from(address: str) -> AsyncIterator[aiohttp.ClientSession]:
    """Open a session whose connections come from an address."""
    connector = aiohttp.TCPConnector(local_addr=(address, 0), limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield session
