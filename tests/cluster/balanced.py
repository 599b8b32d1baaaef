"""HAProxy before the nodes, as the example configures it, and clients that know its address alone."""

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import anyio
from engine import debian
from http_api import Answer, Api
from paths import ROOT

from cluster.clients import PATHS

CONFIGURATION = ROOT / "examples" / "cluster" / "haproxy.cfg"
NAMES = ("red", "green", "blue")
CLIENTS = 16
FINISH_SECONDS = 120.0
WAIT_SECONDS = 5
STEP_SECONDS = (0.0, 0.0, 0.05, 1.5)
"""Times of a step. The longest is more than HAProxy takes to notice that a node drains."""


@contextmanager
def haproxy(port: int, nodes: Sequence[int], configuration: Path = CONFIGURATION) -> Iterator[str]:
    """Run HAProxy at a port, before nodes at others, the first of which is that of red; give its URL."""
    ports = {"PORT": port, **{name.upper(): number for name, number in zip(NAMES, nodes, strict=False)}}
    command = [debian.program("haproxy") or "haproxy", "-db", "-f", str(configuration)]
    env = {**os.environ, **{name: str(number) for name, number in ports.items()}}
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


@dataclass
class BalancedClients:
    """Clients that submit one job after the other, wait for each, and come again when a reply says so.

    Half of them send no `Idempotency-Key`; half of either kind wait in the request that submits.

    - `accepted`: Ids of jobs, by the number of the job.
    - `results`: Results, by id.
    - `again`: Replies that asked to come again.
    - `wrong`: All that such a client must not see.
    """

    url: str
    session: aiohttp.ClientSession
    accepted: dict[int, str] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    again: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    ending: anyio.Event = field(default_factory=anyio.Event)
    _jobs: int = 0

    @property
    def api(self) -> Api:
        return Api(self.url, self.session)

    async def run(self) -> None:
        """Submit jobs until `ending` is set; return when all of them have ended."""
        async with anyio.create_task_group() as tasks:
            for number in range(CLIENTS):
                tasks.start_soon(self._client, number)

    async def until(self, jobs: int) -> None:
        """Return when so many more jobs have ended."""
        jobs += len(self.results)
        with anyio.fail_after(FINISH_SECONDS):
            while len(self.results) < jobs and not self.wrong:
                await anyio.sleep(0.02)

    async def _client(self, client: int) -> None:
        dice = Random(client)
        while not self.ending.is_set():
            self._jobs += 1
            await self._job(self._jobs, client, dice)

    async def _job(self, number: int, client: int, dice: Random) -> None:
        path = dice.choice(PATHS)
        body = {"containers": path, "data": {"path": [], "seconds": dice.choice(STEP_SECONDS)}}
        headers = {"Content-Type": "application/json"}
        if client % 2:
            headers["Idempotency-Key"] = f"job-{number}"
        if client % 4 < 2:
            headers["Prefer"] = f"wait={WAIT_SECONDS}"
        if submitted := await self.ask("POST", "/api/jobs", json=body, headers=headers):
            self.accepted[number] = submitted["id"]
            await self.read(number, path)

    async def read(self, number: int, path: Sequence[str] | None = None) -> None:
        """Wait for the result of a job."""
        id = self.accepted[number]
        with anyio.fail_after(FINISH_SECONDS):
            while True:
                found = await self.ask("GET", f"/api/jobs?id={id}&wait={WAIT_SECONDS}")
                if not found:
                    self.wrong.append(f"job {number}, {id}: not found")
                    return
                if found[0]["status"] != "running":
                    break
        self.results[id] = found[0]
        if found[0]["status"] != "success" or (path and found[0]["result"]["output"]["path"] != list(path)):
            self.wrong.append(f"job {number}: {found[0]}")

    async def ask(self, method: str, path: str, **options: Any) -> Any:
        """Return the JSON of a reply that is none of an error. A reply with `Retry-After` is asked for again then."""
        while True:
            try:
                with anyio.fail_after(FINISH_SECONDS):
                    answer = await self.api.call(method, path, **options)
            except (OSError, TimeoutError, aiohttp.ClientError) as error:
                self.wrong.append(f"{method} {path}: {error!r}")
                return None
            if answer.status in (200, 202):
                return answer.json
            seconds = answer.headers.get("Retry-After")
            said = f"{method} {path}, {told(options)}: {answer.status}, Retry-After {seconds}: {body(answer)}"
            if answer.status != 503 or seconds is None:
                self.wrong.append(said)
                return None
            self.again.append(said)
            await anyio.sleep(float(seconds))


def told(options: Mapping[str, Any]) -> str:
    return "with a key" if "Idempotency-Key" in options.get("headers", {}) else "without a key"


def body(answer: Answer) -> str:
    return answer.body.decode(errors="replace")[:200]
