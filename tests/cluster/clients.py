"""The clients of a drill: each job is submitted twice with its key, at two nodes, however often that takes."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from random import Random
from typing import Any

import aiohttp
import anyio

from cluster.nodes import NodeProcess

NAMES = ("a", "b", "c")
PATHS = tuple(permutations(NAMES))
AT_ONCE = 24
REQUEST_SECONDS = 5.0
"""After so long without an answer a client asks another node, as behind a balancer."""
PAUSE_SECONDS = 0.05


def containers_of(node: int) -> Sequence[str]:
    """Return the containers of a node: each is on two nodes, and no node has all."""
    return [NAMES[node], NAMES[(node + 1) % 3]]


@dataclass
class Submitted:
    """A job as its client knows it.

    - `ids`: What nodes answered, with the name of the node.
    - `sent_at`, `answered_at`: Unix times of the first request, and of the first answer.
    """

    number: int
    path: Sequence[str]
    body: str
    sent_at: float = 0.0
    answered_at: float = 0.0
    ids: list[tuple[str, str]] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.ids[0][1]


class Clients:
    """Submits jobs evenly over a time, and reads them in the end."""

    def __init__(
        self, nodes: Sequence[NodeProcess], seed: int, jobs: int, seconds: float, *, patient: bool = False
    ) -> None:
        """`patient` clients ask again when a node does not know a container."""
        self._again = (400, 503) if patient else (503,)
        self._nodes, self._random = nodes, Random(f"clients/{seed}")
        self._seed, self._pause = seed, seconds / jobs
        self.jobs = [self._job(number) for number in range(jobs)]
        self.wrong: list[str] = []
        self.retries = 0

    def _job(self, number: int) -> Submitted:
        path = self._random.choice(PATHS)
        data = {"number": number, "path": [], "seconds": self._random.choice((0.0, 0.01, 0.03, 0.1))}
        return Submitted(number, path, json.dumps({"containers": path, "data": data}))

    async def submit_all(self) -> None:
        places = anyio.Semaphore(AT_ONCE)
        async with anyio.create_task_group() as tasks:
            for job in self.jobs:
                await places.acquire()
                tasks.start_soon(self._submit_twice, job, places)
                await anyio.sleep(self._pause)

    async def _submit_twice(self, job: Submitted, places: anyio.Semaphore) -> None:
        try:
            await self._submit(job, self._nodes)
            answered = {name for name, _ in job.ids}
            await self._submit(job, [node for node in self._nodes if node.name not in answered])
        finally:
            places.release()

    async def _submit(self, job: Submitted, nodes: Sequence[NodeProcess]) -> None:
        """Submit at one of these nodes, again and again until it has an id."""
        headers = {"Idempotency-Key": f"drill-{self._seed}-{job.number}", "Content-Type": "application/json"}
        job.sent_at = job.sent_at or time.time()
        while True:
            node = self._random.choice(nodes)
            try:
                answer = await node.ask("POST", "/api/jobs", seconds=REQUEST_SECONDS, data=job.body, headers=headers)
            except (OSError, TimeoutError, aiohttp.ClientError):
                answer = None
            if answer is not None and answer.status == 200:
                job.ids.append((node.name, answer.json["id"]))
                job.answered_at = job.answered_at or time.time()
                return
            if answer is not None and answer.status not in self._again:
                self.wrong.append(f"job {job.number} at {node.name}: {answer.status} {answer.body!r}")
                return
            self.retries += 1
            await anyio.sleep(PAUSE_SECONDS)


async def results(node: NodeProcess, ids: Sequence[str], seconds: float) -> Mapping[str, Any]:
    """Return the results of jobs at a node, once all are finished; after so many seconds, of those that are."""
    found: dict[str, Any] = {}
    deadline = time.monotonic() + seconds
    for start in range(0, len(ids), 100):
        some = ids[start : start + 100]
        query = "&".join(f"id={id}" for id in some)
        while True:
            answer = await node.ask("GET", f"/api/jobs?{query}&wait=2", seconds=60)
            jobs = answer.json if answer.status == 200 else []
            found |= {job["id"]: job for job in jobs}
            is_done = len(jobs) == len(some) and all(job["status"] != "running" for job in jobs)
            if is_done or time.monotonic() > deadline:
                break
            if answer.status != 200:
                await anyio.sleep(PAUSE_SECONDS)
    return found
