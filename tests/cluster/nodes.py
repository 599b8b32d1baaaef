"""Nodes of a cluster: processes that are killed, frozen, cut off and started again, and what they leave behind."""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import anyio
from components import until
from http_api import Api
from planted import plant
from served import Served, started

START_SECONDS = 120.0
SKEW = "CLUSTER_SKEW_SECONDS"

SITE = f"""
import os, time

def shift(seconds):
    real, real_ns = time.time, time.time_ns
    time.time = lambda: real() + seconds
    time.time_ns = lambda: real_ns() + round(seconds * 1e9)

if seconds := float(os.environ.get("{SKEW}", "0")):
    shift(seconds)
"""
"""Code that Python runs at the start of a node: its clock is wrong from its first reading on."""

WITNESS = """
import os
from pathlib import Path
import msgspec
from nodekit import JobFinished, Provider

class Config(msgspec.Struct, forbid_unknown_fields=True):
    '''A file with a line for each end of a job that the node has told.'''

    path: Path

class Witness:
    def __init__(self, path):
        self.path = path

    def nodekit_observe(self, event):
        if isinstance(event, JobFinished):
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(file, f"{event.job.id}\\n".encode())
            os.close(file)

provider = Provider(Config, lambda config, file: Witness(config.path))
"""

NODE_FILE = """
[node]
name = "{name}"
concurrency = 16
max_pending = 100000
drain_seconds = 5
[node.each_client]  # all clients of a drill call from one address
concurrency = 16
max_pending = 100000

{store}
[[plugins]]
use = "witness"
path = "finished"

[[transports]]
use = "asgi"
bind = "127.0.0.1:{port}"
trusted_proxies = ["127.0.0.1"]

[[runners]]
use = "remote"
"""
CONTAINER = """
[[runners.containers]]
id = "{id}"
url = "{url}/{id}"
"""


def prepare(folder: Path) -> Mapping[str, str]:
    """Plant what the nodes import; return their environment."""
    plant(folder, "drill-witness", {"plugins": "witness"}, WITNESS)
    (folder / "sitecustomize.py").write_text(SITE)
    return {**os.environ, "PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def node_file(folder: Path, name: str, store: str, url: str, containers: Sequence[str], *, port: int = 0) -> Path:
    """Write the node file of a node whose containers are served at a URL. It listens on a free port, or on this one."""
    tables = [CONTAINER.format(id=id, url=url) for id in containers]
    file = folder / f"{name}.toml"
    file.write_text(NODE_FILE.format(name=name, store=store, port=port) + "".join(tables))
    return file


class NodeProcess:
    """A node that is started again whenever it ends, as a supervisor would, until `stop`."""

    def __init__(self, name: str, file: Path, env: Mapping[str, str], *, skew_seconds: float = 0) -> None:
        self.name, self.file = name, file
        self._env = {**env, SKEW: str(skew_seconds)}
        self.python: str | Path = sys.executable
        """Python of the environment that the next life finds nodekit in."""
        self.lives: list[Served] = []
        self.busy = anyio.Lock()
        """Held by whoever harms it, so that a frozen node is not killed by another fault at the same time."""
        self.harmed = 0
        """Number of times that it was killed or frozen."""
        self._url = ""

    async def __aenter__(self) -> "NodeProcess":
        async with AsyncExitStack() as stack:
            self._session = await stack.enter_async_context(aiohttp.ClientSession())
            self._processes = await stack.enter_async_context(AsyncExitStack())
            await self.start()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    @property
    def api(self) -> Api:
        return Api(self._url, self._session)

    @property
    def served(self) -> Served:
        return self.lives[-1]

    async def start(self) -> None:
        """Start a life; one that ends before it listens is followed by another."""
        with anyio.fail_after(START_SECONDS):
            while True:
                serve = ("serve", self.file, "--log-level", "warning")
                life = started(*serve, folder=self.file.parent, env=self._env, python=self.python)
                served = await self._processes.enter_async_context(life)
                self.lives.append(served)
                await until(lambda: served.url or served.process.poll() is not None, seconds=START_SECONDS)  # noqa: B023
                if served.url:
                    self._url = served.url
                    return
                await anyio.sleep(0.2)

    def signal(self, number: signal.Signals) -> None:
        self.served.signal(number)

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self.served.ended()

    async def stop(self) -> int:
        """Stop the node as a supervisor does; return its exit code."""
        self.signal(signal.SIGTERM)
        return await self.served.ended()

    async def ask(self, method: str, path: str, *, seconds: float, **options: Any) -> Any:
        """Return the answer of the node. Raise OSError, TimeoutError or aiohttp.ClientError if there is none."""
        with anyio.fail_after(seconds):
            return await self.api.call(method, path, **options)
