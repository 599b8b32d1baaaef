"""Streams under load: any size, a sleeping reader, a leaving reader. The node is a process of its own."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from chance import each_run
from components import until
from connections import listening
from http_api import Api, RawConnection, both_servers, post
from served import Served, serve

pytestmark = pytest.mark.anyio

MEGABYTE = 1 << 20
SIZE = each_run(128, 1024) * MEGABYTE
MOST_MORE = 32 * MEGABYTE
"""Maximum growth of memory, in bytes, while a stream is open."""
PIECE = b"%x\r\n%b\r\n" % (MEGABYTE, b"x" * MEGABYTE)

NODE_FILE = """
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


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Source:
    """A container that answers with this many bytes, a megabyte at a time."""

    def __init__(self) -> None:
        self.sent = self.open = 0

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.sent = 0
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"requires_proof")
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while self.sent < SIZE:
                writer.write(PIECE)
                await writer.drain()
                self.sent += MEGABYTE
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        writer.close()
        self.open -= 1


@asynccontextmanager
async def stream(api: Api) -> AsyncIterator[tuple[str, RawConnection]]:
    """Open a stream; its id has arrived."""
    async with api.raw() as raw:
        asked = json.dumps({"containers": ["source"], "data": {}}).encode()
        await raw.send(post(asked, path="/api/jobs/stream"))
        async with asyncio.timeout(60):
            head = await raw.reader.readuntil(b"\r\n\r\n")
            await raw.reader.readuntil(b"\r\n")
            id = await raw.reader.readuntil(b"\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        yield id.decode().strip(), raw


async def most_resident(served: Served, done: asyncio.Event) -> int:
    most = 0
    while not done.is_set():
        most = max(most, served.resident_bytes)
        await asyncio.sleep(0.05)
    return most


@both_servers
async def test_a_stream_of_any_size_takes_no_memory_and_none_is_left_by_a_reader_or_a_node_that_goes(
    tmp_path: Path, server: str
) -> None:
    source = Source()
    async with listening(source.connected) as listener:
        file = tmp_path / "node.toml"
        file.write_text(NODE_FILE.format(port=listener.sockets[0].getsockname()[1], server=server))
        async with serve(file) as (node, api):
            await read_it_all(source, node, api)
            await sleep_and_leave(source, node, api)
            killed = await kill_in_mid_stream(node, api)
        async with serve(file) as (_, again):
            (job,) = await again.results(killed)
    assert (job["status"], job["result"]) == ("failed", {"container": "source", "error": "interrupted"})


async def read_it_all(source: Source, node: Served, api: Api) -> None:
    before = node.resident_bytes
    done, size = asyncio.Event(), 0
    watch = asyncio.create_task(most_resident(node, done))
    async with stream(api) as (id, raw), asyncio.timeout(100):
        end = b""
        while data := await raw.reader.read(MEGABYTE):
            size += len(data)
            end = (end + data)[-7:]
            if end == b"\r\n0\r\n\r\n":
                break
    done.set()
    assert source.sent == SIZE
    assert size >= SIZE
    assert await watch - before < MOST_MORE
    (job,) = await api.results(id)
    assert job["status"] == "success"
    output = job["result"]["output"]
    assert (output["truncated"], output["bytes"], len(output["output"])) == (True, SIZE, MEGABYTE)


async def sleep_and_leave(source: Source, node: Served, api: Api) -> None:
    """Check that a sleeping reader holds up the container, and that a leaving one frees everything."""
    await until(lambda: not source.open)
    before, descriptors = node.resident_bytes, node.descriptors
    async with stream(api) as (id, _):
        sent = -1
        while source.sent > sent:  # until every buffer on the way is full
            sent = source.sent
            await asyncio.sleep(0.5)
        assert source.sent < 64 * MEGABYTE
        assert node.resident_bytes - before < MOST_MORE
        assert source.open == 1
    await until(lambda: not source.open and node.descriptors <= descriptors)
    (job,) = await api.results(id)
    assert job["result"] == {"container": "source", "error": "cancelled"}


async def kill_in_mid_stream(node: Served, api: Api) -> str:
    """Kill the node in the middle of a stream; return the id of the job, which the next start must fail."""
    async with stream(api) as (id, raw), asyncio.timeout(60):
        assert await raw.reader.read(MEGABYTE)
        node.signal(signal.SIGKILL)
        with suppress(ConnectionError):
            while await raw.reader.read(MEGABYTE):
                pass
    await node.ended()
    return id
