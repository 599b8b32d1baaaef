"""Streams through a node: the time of a piece from the container to the client, and the bytes per second.

    python benchmarks/streams.py [--server hypercorn] [--streams 200] [--megabytes 1024]

The node is a `nodekit serve` process. Container and client share another process, so that both use one clock.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NODE = """
[store]
use = "sqlite"
path = "jobs.db"
[[runners]]
use = "remote"
[[runners.containers]]
id = "source"
url = "http://127.0.0.1:{port}"
[[transports]]
use = "asgi"
bind = "127.0.0.1:0"
server = "{server}"
"""
MEGABYTE = 1 << 20
PAUSE_SECONDS = 0.02
PIECES = 5


class Source:
    """A container that sends a few pieces of one byte with pauses, or the requested megabytes as fast as possible."""

    def __init__(self) -> None:
        self.sent_at: list[float] = []

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        megabytes = json.loads(await reader.readexactly(length))["data"]["megabytes"]
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(0 if megabytes else PIECES):
            await asyncio.sleep(PAUSE_SECONDS)
            self.sent_at.append(time.perf_counter())
            writer.write(b"1\r\nx\r\n")
        for _ in range(megabytes):
            writer.write(b"%x\r\n%b\r\n" % (MEGABYTE, b"x" * MEGABYTE))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        writer.close()


async def chunks(port: int, megabytes: int) -> "list[tuple[float, int]]":
    """Return the arrival time and length of each chunk after the id."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4 * MEGABYTE)
    body = json.dumps({"containers": ["source"], "data": {"megabytes": megabytes}}).encode()
    head = f"POST /api/jobs/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await reader.readuntil(b"\r\n\r\n")
    seen: list[tuple[float, int]] = []
    while length := int(await reader.readuntil(b"\r\n"), 16):
        await reader.readexactly(length + 2)
        seen.append((time.perf_counter(), length))
    writer.close()
    return seen[1:]


async def measure(port: int, source: Source, streams: int, megabytes: int) -> None:
    delays: list[float] = []
    firsts: list[float] = []
    for _ in range(streams):
        source.sent_at.clear()
        seen = await chunks(port, 0)
        arrived = [at for at, length in seen for _ in range(length)]  # several pieces may come in one chunk
        waited = [1000 * (at - sent) for at, sent in zip(arrived, source.sent_at, strict=True)]
        firsts.append(waited[0])
        delays += waited
    for name, values in (("first byte", firsts), ("any piece", delays)):
        worst = statistics.quantiles(values, n=100)[98]
        print(f"{name}: median {statistics.median(values):.2f} ms, 99th percentile {worst:.2f} ms")
    begun = time.perf_counter()
    size = sum(length for _, length in await chunks(port, megabytes))
    seconds = time.perf_counter() - begun
    print(f"{size >> 20} MiB in {seconds:.1f} s: {size / seconds / MEGABYTE:.0f} MiB/s")


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", default="hypercorn")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--megabytes", type=int, default=1024)
    given = parser.parse_args()
    source = Source()
    server = await asyncio.start_server(source.connected, "127.0.0.1", 0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "node.toml")
        file.write_text(NODE.format(port=server.sockets[0].getsockname()[1], server=given.server))
        command = [sys.executable, "-m", "nodekit.cli", "serve", str(file), "--log-level", "warning"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as node:
            assert node.stdout
            try:
                port = int(node.stdout.readline().rpartition(":")[2])
                await measure(port, source, given.streams, given.megabytes)
            finally:
                node.terminate()
    server.close()


asyncio.run(main())
