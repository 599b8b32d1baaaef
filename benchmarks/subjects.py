"""The subjects of measurements: nodes, the limit and a peer. Each is started with a load of its own."""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from load import Load
from processes import MEASURED, START_SECONDS, BenchError, Process

HERE = Path(__file__).resolve().parent
PEER = HERE.parent / ".venv-bench"
NODE = """
[node]
concurrency = {concurrency}
max_pending = 10000000
[store]
{store}
[[runners]]
use = "remote"
[[runners.containers]]
id = "echo"
url = "http://127.0.0.1:{container}"
[[transports]]
use = "asgi"
bind = "127.0.0.1:0"
server = "{server}"
[[plugins]]
use = "guardian"
"""
KEYS = """
[[plugins]]
use = "apikeys"
path = "keys"
"""
STORES = {
    "sqlite": 'use = "sqlite"\npath = "jobs.db"',
    "sqlite-normal": 'use = "sqlite"\npath = "jobs.db"\nsynchronous = "NORMAL"',
    "memory": 'use = "memory"',
}


class Subject(NamedTuple):
    """A running subject."""

    name: str
    port: int
    processes: tuple[Process, ...]
    load: Load
    header: str = "-"

    def cpu_seconds(self) -> float:
        return sum(process.cpu_seconds() for process in self.processes)

    def memory_mb(self, line: str = "VmRSS") -> float:
        return sum(process.memory_mb(line) for process in self.processes)

    def get(self, path: str) -> bytes:
        headers = dict([self.header.split(": ")]) if self.header != "-" else {}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=60) as reply:
            body: bytes = reply.read()
        return body


class Kind(NamedTuple):
    """A kind of subject: a node, or another program. `stored` finished jobs are in its store before it starts."""

    name: str
    server: str = "uvicorn"
    store: str = "sqlite"
    keys: bool = False
    stored: int = 0
    queued: int = 0
    concurrency: int = 64

    def missing(self) -> str:
        """Return what is missing on this machine, or an empty string."""
        if self.name != "arq":
            return ""
        if not shutil.which("redis-server"):
            return "no redis-server: apt-get install redis-server"
        return "" if (PEER / "bin" / "arq").exists() else "no environment of the peer: make .venv-bench/.installed"

    @contextmanager
    def running(self, *, plant: bool = False) -> Iterator[Subject]:
        """Start it in a new folder, and end it."""
        start = {"limit": _limit, "arq": _arq}.get(self.name, self._node)
        with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
            load = Load(Path(name), plant=plant)
            stack.callback(load.end)
            yield start(stack, Path(name), load)

    def _node(self, stack: ExitStack, folder: Path, load: Load) -> Subject:
        (folder / "node.toml").write_text(self.node_file(load.container))
        header = f"Authorization: Bearer {_key(folder)}" if self.keys else "-"
        if self.stored or self.queued:
            fill(folder / "jobs.db", self.stored, self.queued)
        node = node_process(folder)
        stack.callback(node.end)
        return Subject(self.name, _port(node), (node,), load, header)

    def node_file(self, container: int) -> str:
        places = {"store": STORES[self.store], "server": self.server, "concurrency": self.concurrency}
        return NODE.format(container=container, **places) + KEYS * self.keys


def node_process(folder: Path) -> Process:
    command = [sys.executable, "-m", "nodekit.cli", "serve", folder / "node.toml", "--log-level", "warning"]
    return Process(command, MEASURED, folder=folder)


def fill(file: Path, stored: int, queued: int) -> None:
    """Write jobs of the client 127.0.0.1 into a new file of the store `sqlite`."""
    subprocess.run([sys.executable, HERE / "filled.py", file, str(stored), str(queued)], check=True)


def _port(process: Process) -> int:
    return int(process.line("listening on").rpartition(":")[2])


def _key(folder: Path) -> str:
    command = [sys.executable, "-m", "nodekit.cli", "keys", "create", str(folder / "node.toml"), "--name", "bench"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return next(word for word in done.stdout.split() if word.startswith("nk_"))


def _limit(stack: ExitStack, folder: Path, load: Load) -> Subject:
    limit = Process([sys.executable, HERE / "limit.py", str(load.container)], MEASURED, folder=folder)
    stack.callback(limit.end)
    return Subject("limit", _port(limit), (limit,), load)


def _arq(stack: ExitStack, folder: Path, load: Load) -> Subject:
    """Start Redis, which writes nothing to a disk, a worker of arq, and a server with uvicorn."""
    redis_port, port = _free_port(), _free_port()
    env = {"REDIS_PORT": str(redis_port), "CONTAINER_PORT": str(load.container), "PYTHONPATH": str(HERE / "peer")}
    redis = ["redis-server", "--port", str(redis_port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    commands: list[tuple[list[str], Callable[[], object]]] = [
        (redis, lambda: _connectable(redis_port)),
        ([str(PEER / "bin" / "arq"), "worker.Settings"], lambda: None),
        (
            [
                str(PEER / "bin" / "uvicorn"),
                "app:app",
                "--port",
                str(port),
                "--log-level",
                "warning",
                "--no-access-log",
            ],
            lambda: _connectable(port),
        ),
    ]
    processes: list[Process] = []
    for command, ready in commands:
        processes.append(Process(command, MEASURED, env=env, folder=folder))
        stack.callback(processes[-1].end)
        ready()
    return Subject("arq", port, tuple(processes), load)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def _connectable(port: int) -> None:
    ends = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > ends:
                raise BenchError(f"nothing listens on port {port} after {START_SECONDS:g} s") from None
            time.sleep(0.02)
        else:
            return
