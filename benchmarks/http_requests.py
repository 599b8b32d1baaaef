"""CPU of the node per HTTP request, and Python calls per request, for each kind of request.

    python benchmarks/http_requests.py [--server uvicorn] [--loop asyncio] [--rounds 9] [--requests 400]
                                       [--only submit] [--against ../before]

The node is a process of its own, with the store `memory` and a container that is a function. Rows:

- `library`: a constant answer of the server's own library, without anything of nodekit.
- `constant`: the same answer on the transport's server, without the API.
- `core`: jobs that the node's own program submits, without HTTP.
- the others: requests to the node. What HTTP costs of a job is `submit` less `core`.

Times are CPU of the process, the least of the rounds, which take turns over the rows: other load on the machine only
makes them longer. Calls are counted by `sys.setprofile` on the event loop's thread; no load disturbs them.
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import anyio
from msgspec import Raw

from nodekit import JobRequest, Node
from nodekit_asgi import AsgiTransport
from nodekit_asgi.config import AsgiConfig
from nodekit_asgi.server.deadlines import Deadlines
from nodekit_asgi.server.listen import listen
from nodekit_asgi.server.servers import SERVERS
from nodekit_function import FunctionRunner
from nodekit_memory import MemoryStore

JOB = {"containers": ["echo"], "data": {"text": "hello", "n": 1}}
BATCH = 100
CLIENTS = 16
CONSTANT = b'{"status":"live"}'


# -- the process that is measured -------------------------------------------------------------------


async def constant(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Any]) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(CONSTANT))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": CONSTANT, "more_body": False})


async def serve_library(server: str) -> None:
    listener = listen("127.0.0.1:0")
    say(port=listener.getsockname()[1])
    if server == "uvicorn":
        import uvicorn

        settings = uvicorn.Config(constant, lifespan="off", access_log=False, log_config=None, http="httptools")
        await uvicorn.Server(settings).serve([listener])
    else:
        import hypercorn
        from hypercorn.asyncio import serve

        config = hypercorn.Config()
        config.bind, config.errorlog = [f"fd://{listener.detach()}"], None
        await serve(constant, config)  # type: ignore[arg-type]


async def serve_constant(server: str) -> None:
    config = AsgiConfig(server=server)  # type: ignore[arg-type]
    listener, deadlines = listen("127.0.0.1:0"), Deadlines(config)
    say(port=listener.getsockname()[1])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(deadlines.keep)
        await SERVERS[config.server](constant, config, listener, anyio.Event(), deadlines)


async def serve_node(server: str) -> None:
    runner = FunctionRunner()

    @runner.container("echo")
    async def echo(data: Any) -> Any:
        return {"ok": "yes"}

    transport = AsgiTransport(config=AsgiConfig(bind="127.0.0.1:0", server=server))  # type: ignore[arg-type]
    async with Node(store=MemoryStore(), runners=[runner], transports=[transport]) as node:
        Commands.node = node
        say(port=int(node.urls[0].rpartition(":")[2]))
        await anyio.sleep_forever()


def say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


class Commands:
    """Requests of the measuring process to the measured one, a line for each."""

    node: Node | None = None
    calls = 0

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(0, self._read)
        self._tasks: set[asyncio.Task[None]] = set()

    def _read(self) -> None:
        line = os.read(0, 1 << 12).decode()
        if not line:
            os._exit(0)
        command, _, argument = line.strip().partition(" ")
        if command == "cpu":
            say(cpu=time.process_time_ns())
        elif command == "count":
            self.calls = 0
            sys.setprofile(self._count)
            say()
        elif command == "counted":
            sys.setprofile(None)
            say(calls=self.calls)
        elif command == "core":
            self._tasks.add(self._loop.create_task(self._core(int(argument))))
        else:
            self._tasks.add(self._loop.create_task(self._idle()))

    def _count(self, frame: Any, event: str, argument: Any) -> None:
        if event == "call" or event == "c_call":
            self.calls += 1

    async def _core(self, number: int) -> None:
        assert self.node is not None
        request = JobRequest(containers=("echo",), data=Raw(json.dumps(JOB["data"]).encode()), client="127.0.0.1")
        for _ in range(number):
            await self.node.submit(request)
        await self._idle()

    async def _idle(self) -> None:
        """Say that every job is finished."""
        while self.node is not None and (await self.node.pending()).total:
            await asyncio.sleep(0.001)
        say()


async def measured(server: str, app: str) -> None:
    commands = Commands()
    await {"library": serve_library, "constant": serve_constant, "node": serve_node}[app](server)
    del commands


# -- the process that measures ----------------------------------------------------------------------


class Measured:
    """A process that serves one kind of application."""

    def __init__(self, server: str, app: str, loop: str, folder: str | None) -> None:
        command = [sys.executable, __file__, "--server", server, "--loop", loop, "--measured", app]
        paths = {} if folder is None else {"PYTHONPATH": os.pathsep.join([folder, f"{folder}/plugins"])}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, env={**os.environ, **paths}, **pipes)
        self.port: int = self._answer()["port"]
        if (os.cpu_count() or 1) > 1:
            os.sched_setaffinity(self._process.pid, {0})

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def ask(self, command: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


class Client:
    """A keep-alive connection that sends one request at a time."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, message: bytes) -> None:
        self._socket.sendall(message)

    def reply(self) -> bytes:
        """Return the body of the reply."""
        received = b""
        while (head := received.partition(b"\r\n\r\n"))[1] == b"":
            received += self._received()
        length = int(head[0].lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = head[2]
        while len(body) < length:
            body += self._received()
        if b" 200" not in head[0][:16]:
            raise RuntimeError(f"{head[0]!r} {body!r}")
        return body

    def _received(self) -> bytes:
        if not (data := self._socket.recv(1 << 16)):
            raise RuntimeError("the node has closed the connection")
        return data

    def close(self) -> None:
        self._socket.close()


def message(method: str, path: str, body: bytes = b"", *more: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", "user-agent: benchmark/1", "accept: */*", *more]
    if body:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def requests(node: Measured, text: bytes, number: int, clients: int) -> None:
    """Send as many requests as there are clients at once, again and again: so the node is busy, as under load."""
    opened = [Client(node.port) for _ in range(clients)]
    for _ in range(number // clients):
        for client in opened:
            client.send(text)
        for client in opened:
            client.reply()
    for client in opened:
        client.close()
    node.ask("idle")


Row: TypeAlias = tuple[Measured, bytes, int]
"""The process, the message, and the items in it."""


def rows(nodes: dict[str, Measured]) -> dict[str, Row]:
    job, batch = json.dumps(JOB).encode(), json.dumps([JOB] * BATCH).encode()
    node = nodes["node"]
    client = Client(node.port)
    client.send(message("POST", "/api/jobs", job))
    id = json.loads(client.reply())["id"]
    node.ask("idle")
    return {
        "library": (nodes["library"], message("GET", "/"), 1),
        "constant": (nodes["constant"], message("GET", "/"), 1),
        "live": (node, message("GET", "/health/live"), 1),
        "info": (node, message("GET", "/info"), 1),
        "read by id": (node, message("GET", f"/api/jobs?id={id}"), 1),
        "core": (node, b"", 1),
        "submit": (node, message("POST", "/api/jobs", job), 1),
        "submit, wait": (node, message("POST", "/api/jobs", job, "prefer: wait=10"), 1),
        f"batch of {BATCH}": (node, message("POST", "/api/jobs/batch", batch), BATCH),
    }


def work(node: Measured, text: bytes, number: int, clients: int) -> None:
    if text:
        requests(node, text, number, clients)
    else:
        node.ask(f"core {number}")


def measure(options: argparse.Namespace) -> None:
    apps, folders = ("library", "constant", "node"), [None, *options.against]
    nodes = [{app: Measured(options.server, app, options.loop, folder) for app in apps} for folder in folders]
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {1})
    try:
        tables = [{k: row for k, row in rows(some).items() if options.only in k} for some in nodes]
        times = [least(tables, name, options) for name in tables[0]]
        for name, spent in zip(tables[0], times, strict=True):
            counts = [calls(*table[name]) for table in tables]
            columns = [f"{1e-3 * t:8.1f} µs CPU {c:7.1f} calls" for t, c in zip(spent, counts, strict=True)]
            print(f"{options.server:10}{name:14}", *columns, flush=True)
    finally:
        for node in [node for some in nodes for node in some.values()]:
            node.end()


def least(tables: list[dict[str, Row]], name: str, options: argparse.Namespace) -> list[float]:
    """Return the least CPU per item, of each table, in nanoseconds. The tables take turns."""
    found = [float("inf")] * len(tables)
    for _ in range(options.rounds):
        for place, table in enumerate(tables):
            node, text, items = table[name]
            number = max(CLIENTS, options.requests // items)
            before = node.ask("cpu")["cpu"]
            work(node, text, number, CLIENTS)
            found[place] = min(found[place], (node.ask("cpu")["cpu"] - before) / number / items)
    return found


def calls(node: Measured, text: bytes, items: int) -> float:
    """Return the Python calls of one item."""
    number = 100 if items == 1 else 2
    node.ask("count")
    work(node, text, number, 1)
    counted: int = node.ask("counted")["calls"]
    return counted / number / items


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", choices=["hypercorn", "uvicorn"], default="uvicorn")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--only", default="", help="only rows whose names hold this")
    parser.add_argument("--against", nargs="*", default=[], help="folders of other versions, for columns of their own")
    parser.add_argument("--measured", choices=["library", "constant", "node"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measured is None:
        measure(options)
    else:
        anyio.run(
            measured,
            options.server,
            options.measured,
            backend="asyncio",
            backend_options={"use_uvloop": options.loop == "uvloop"},
        )


if __name__ == "__main__":
    main()
