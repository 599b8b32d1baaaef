"""A freshly started node under attack, and what is measured of it."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import anyio.to_thread
import msgspec
from http_api import Answer, Api
from served import Served, serve

HERE = Path(__file__).parent
MEGABYTE = 1 << 20

NODE_FILE = """
[node]
memory = "{memory}"
{node}

[store]
use = "sqlite"
path = "jobs.db"

[[runners]]
use = "remote"
[[runners.containers]]
id = "echo"
url = "http://127.0.0.1:{port}"
[[runners.containers]]
id = "single"
url = "http://127.0.0.1:{single}"
{runners}

[[transports]]
use = "asgi"
bind = "127.0.0.1:0"
server = "{server}"
{transport}
"""


class Figures(msgspec.Struct):
    """Figures of the watcher since it was asked before. Times are in seconds."""

    probes: int
    p99_seconds: float
    longest_seconds: float
    failures: list[str]
    peak_bytes: int
    bytes: int


class Child:
    """A process that ends when its standard input is closed."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    async def ask(self, line: str | None = None) -> str:
        """Write a line, and return the next one that the process prints."""
        assert self._process.stdin
        assert self._process.stdout
        if line is not None:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        return await anyio.to_thread.run_sync(self._process.stdout.readline)


class Target:
    """The node: its own client calls from 127.0.0.1, an attacker's from 127.0.0.2 or further on."""

    def __init__(self, served: Served, api: Api, watcher: Child, memory_bytes: int, folder: Path) -> None:
        self.served, self.api, self.folder = served, api, folder
        self.memory_bytes = memory_bytes
        self._watcher = watcher

    @property
    def address(self) -> tuple[str, int]:
        return self.api.address

    async def figures(self) -> Figures:
        """Return what was seen since the last call."""
        return msgspec.json.decode(await self._watcher.ask("now"), type=Figures)

    @asynccontextmanager
    async def attacker(self, number: int = 2) -> AsyncIterator[Api]:
        connector = aiohttp.TCPConnector(local_addr=(f"127.0.0.{number}", 0), limit=0)
        timeout = aiohttp.ClientTimeout(total=120)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            yield Api(self.api.url, session)

    async def connect(self, number: int = 2) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a bare connection of an attacker."""
        return await asyncio.open_connection(*self.address, local_addr=(f"127.0.0.{number}", 0))

    async def job_of_another(self, seconds: float = 60) -> float:
        """Submit a job as somebody who has nothing to do with the attack. Return the seconds until its result."""
        began = time.monotonic()
        async with asyncio.timeout(seconds):
            while True:
                answer = await self.api.post("/api/jobs", {"containers": ["echo"], "data": {"n": 1}})
                if answer.status == 200:
                    break
                assert answer.status in (429, 503), answer
                await asyncio.sleep(0.1)
            (job,) = await self.api.results(answer.json["id"], seconds=seconds)
        assert job["status"] == "success", job
        return time.monotonic() - began

    async def recovered(self, below_bytes: int, seconds: float = 60) -> tuple[float, int]:
        """Wait until the memory is back. Return the seconds that it took, and the memory then."""
        began = time.monotonic()
        while True:
            now = self.served.resident_bytes
            if now < below_bytes or time.monotonic() - began > seconds:
                return time.monotonic() - began, now
            await asyncio.sleep(0.2)


@asynccontextmanager
async def target(
    folder: Path,
    server: str,
    *,
    memory_mib: int = 256,
    node: str = "",
    runners: str = "",
    transport: str = "",
    open_files: int | None = None,
) -> AsyncIterator[Target]:
    """Start a node with an empty store, or with that of the folder."""
    with Child(str(HERE / "echo.py")) as echo:
        port, single = (await echo.ask()).split()
        file = folder / "node.toml"
        transport += "\nhttp2 = true" if server == "hypercorn" else ""
        file.write_text(
            NODE_FILE.format(
                memory=f"{memory_mib}MiB",
                node=node,
                port=port,
                single=single,
                runners=runners,
                server=server,
                transport=transport,
            )
        )
        async with serve(file, open_files=open_files) as (served, api):
            with Child(str(HERE / "watch.py"), str(served.process.pid), str(api.address[1])) as watcher:
                one = Target(served, api, watcher, memory_mib * MEGABYTE, folder)
                await one.job_of_another()
                await one.figures()
                yield one


def job(size: int, *, steps: int = 1) -> bytes:
    """Return the body of a request with so many bytes of data."""
    return json.dumps({"containers": ["echo"] * steps, "data": {"x": "y" * size}}).encode()


async def post(api: Api, path: str, body: bytes) -> Answer:
    """Send a body of any size."""
    return await api.call("POST", path, data=BytesIO(body))


async def submit(api: Api, body: bytes, *, patience: float = 60) -> str:
    """Submit a job, again and again while there is no room for it; return its id."""
    async with asyncio.timeout(patience):
        while (answer := await post(api, "/api/jobs", body)).status in (429, 503):
            await asyncio.sleep(0.2)
    assert answer.status == 200, answer
    id: Any = answer.json["id"]
    return str(id)
