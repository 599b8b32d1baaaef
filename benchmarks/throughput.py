"""Jobs per second of a node, over HTTP, end to end.

    python benchmarks/throughput.py [--jobs 3000] [--clients 32] [--steps 1] [--batch 1] [--server hypercorn]
                                    [--plugin metrics]

The node is a `nodekit serve` process on one core. The clients and a trivial container, in raw asyncio, run on another.
A job is submitted over HTTP, runs its steps in the container, is stored, and counts once it is finished.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NODE = """
[node]
concurrency = {concurrency}
max_pending = 1000000
[store]
{store}
[[runners]]
use = "remote"
[[runners.containers]]
id = "echo"
url = "http://127.0.0.1:{port}"
[[transports]]
use = "asgi"
bind = "127.0.0.1:0"
server = "{server}"
[[plugins]]
use = "guardian"
"""
STORES = {
    "sqlite": 'use = "sqlite"\npath = "jobs.db"',
    "sqlite-normal": 'use = "sqlite"\npath = "jobs.db"\nsynchronous = "NORMAL"',
    "memory": 'use = "memory"',
}


class Echo(asyncio.Protocol):
    """The smallest container. It answers every request with the same JSON."""

    reply = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 13\r\n\r\n" + b'{"ok": "yes"}'

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.left, self.buffer = 0, b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            head, _, rest = self.buffer.partition(b"\r\n\r\n")
            length = next((int(h[15:]) for h in head.lower().split(b"\r\n") if h.startswith(b"content-length:")), 0)
            if len(rest) < length:
                return
            self.buffer = rest[length:]
            self.transport.write(self.reply)


class Client:
    """A keep-alive connection that sends one request at a time."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def open(self) -> "Client":
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
        self.writer.write(head.encode() + body)
        answer = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        length = int(answer.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        reply = await self.reader.readexactly(length)
        if b" 200" not in answer[:16]:
            raise RuntimeError(f"{answer!r} {reply!r}")
        return reply


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


async def drive(port: int, options: argparse.Namespace) -> float:
    item = {"containers": ["echo"] * options.steps, "data": {"text": "hello", "n": 1}}
    single, batch = json.dumps(item).encode(), json.dumps([item] * options.batch).encode()
    rounds = options.jobs // options.clients // options.batch

    async def client() -> None:
        connection = await Client(port).open()
        for _ in range(rounds):
            if options.batch > 1:
                await connection.request("POST", "/api/jobs/batch", batch)
            else:
                await connection.request("POST", "/api/jobs", single)

    watcher = await Client(port).open()
    started = time.perf_counter()
    await asyncio.gather(*[client() for _ in range(options.clients)])
    while json.loads(await watcher.request("GET", "/info"))["pending"]["offchain"]:
        await asyncio.sleep(0.01)
    seconds = time.perf_counter() - started
    print(f"  {rounds * options.clients * options.batch / seconds:8.0f} jobs/s", end="")
    return rounds * options.clients * options.batch


async def main(options: argparse.Namespace) -> None:
    container = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    port = container.sockets[0].getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "node.toml")
        file.write_text(
            NODE.format(store=STORES[options.store], port=port, server=options.server, concurrency=options.concurrency)
        )
        with file.open("a") as more:
            more.writelines(f'[[plugins]]\nuse = "{name}"\n' for name in options.plugin)
        command = [sys.executable, "-m", "nodekit.cli", "serve", str(file), "--log-level", "warning"]
        node = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert node.stdout is not None
            line = await asyncio.to_thread(node.stdout.readline)
            if os.cpu_count() and os.cpu_count() > 1:
                os.sched_setaffinity(node.pid, {0})
                for thread in os.listdir(f"/proc/{node.pid}/task"):
                    os.sched_setaffinity(int(thread), {0})
                os.sched_setaffinity(0, {1})
            node_port = int(line.rpartition(":")[2])
            for _ in range(options.rounds):
                before = cpu_seconds(node.pid)
                jobs = await drive(node_port, options)
                used = (cpu_seconds(node.pid) - before) / jobs
                print(f"  {used * 1e6:6.0f} µs CPU per job  {memory_mb(node.pid):5.1f} MB resident", flush=True)
        finally:
            node.send_signal(signal.SIGTERM)
            node.wait(20)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=3000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--server", choices=["hypercorn", "uvicorn"], default="hypercorn")
    parser.add_argument("--store", choices=list(STORES), default="sqlite")
    parser.add_argument("--plugin", action="append", default=[], help="another plugin to measure the node with")
    asyncio.run(main(parser.parse_args()))
