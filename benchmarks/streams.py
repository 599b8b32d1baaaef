"""Streams through a node: the time of a piece from the container to the client, and the bytes per second.

Container and client share this process, so that both use one clock.
"""

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from subjects import Kind, node_process

MEGABYTE = 1 << 20
PAUSE_SECONDS = 0.02
PIECES = 5
STREAMS = 20
"""Streams of a round, of a few pieces each."""
MEGABYTES_PER_SECOND = 200
"""Size of the long stream of a round, for each second that it may take."""


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


async def chunks(port: int, megabytes: int) -> list[tuple[float, int]]:
    """Return the arrival time and length of each chunk after the id."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4 * MEGABYTE)
    body = json.dumps({"containers": ["echo"], "data": {"megabytes": megabytes}}).encode()
    head = f"POST /api/jobs/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await reader.readuntil(b"\r\n\r\n")
    seen: list[tuple[float, int]] = []
    while length := int(await reader.readuntil(b"\r\n"), 16):
        await reader.readexactly(length + 2)
        seen.append((time.perf_counter(), length))
    writer.close()
    return seen[1:]


async def once(port: int, source: Source, megabytes: int) -> dict[str, float]:
    """Return the figures of a round. Raise `ValueError` if bytes are missing."""
    firsts: list[float] = []
    for _ in range(STREAMS):
        source.sent_at.clear()
        seen = await chunks(port, 0)
        arrived = [at for at, length in seen for _ in range(length)]  # several pieces may come in one chunk
        waited = [1000 * (at - sent) for at, sent in zip(arrived, source.sent_at, strict=True)]
        firsts.append(waited[0])
    began = time.perf_counter()
    size = sum(length for _, length in await chunks(port, megabytes))
    took = time.perf_counter() - began
    if size != megabytes * MEGABYTE:
        raise ValueError(f"{size} bytes of {megabytes * MEGABYTE}")
    return {"first byte ms": statistics.median(firsts), "MB/s": size / took / 1e6}


async def streamed(kinds: Sequence[Kind], rounds: int, seconds: float) -> dict[str, list[dict[str, float]]]:
    """Return the figures of each round, by subject."""
    source = Source()
    server = await asyncio.start_server(source.connected, "127.0.0.1", 0)
    found: dict[str, list[dict[str, float]]] = {kind.name: [] for kind in kinds}
    ports: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        for kind in kinds:
            folder = Path(name, kind.name)
            folder.mkdir()
            (folder / "node.toml").write_text(kind.node_file(server.sockets[0].getsockname()[1]))
            node = node_process(folder)
            stack.callback(node.end)
            ports[kind.name] = int((await asyncio.to_thread(node.line, "listening on")).rpartition(":")[2])
        for _ in range(rounds):
            for kind in kinds:
                megabytes = max(1, round(seconds * MEGABYTES_PER_SECOND))
                figures = await once(ports[kind.name], source, megabytes)
                found[kind.name].append(figures)
    server.close()
    return found
