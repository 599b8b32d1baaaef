"""Streams under load: a gigabyte, a reader that sleeps, one that leaves; the node is a process of its own."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from http_api import Api, RawConnection, post
from parts import until
from served import Served, serve

pytestmark = pytest.mark.anyio

MEGABYTE = 1 << 20
GIGABYTE = 1 << 30
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
    """A container that answers with a gigabyte, a piece of a megabyte at a time."""

    def __init__(self) -> None:
        self.sent = self.open = 0

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"requires_proof")
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while self.sent < GIGABYTE:
                writer.write(PIECE)
                await writer.drain()
                self.sent += MEGABYTE
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        writer.close()
        self.open -= 1


@pytest.fixture(params=["hypercorn", "uvicorn"])
async def served(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Source, Served, Api]]:
    source = Source()
    server = await asyncio.start_server(source.connected, "127.0.0.1", 0)
    file = tmp_path / "node.toml"
    file.write_text(NODE_FILE.format(port=server.sockets[0].getsockname()[1], server=request.param))
    async with server, serve(file) as (served, api):
        yield source, served, api


@asynccontextmanager
async def stream(api: Api) -> AsyncIterator[tuple[str, RawConnection]]:
    """A stream whose id has arrived."""
    async with api.raw() as raw:
        asked = json.dumps({"containers": ["source"], "data": {}}).encode()
        await raw.send(post(asked, path="/api/jobs/stream"))
        async with asyncio.timeout(20):
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


async def test_a_gigabyte_passes_with_flat_memory(served: tuple[Source, Served, Api]) -> None:
    source, node, api = served
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
    assert source.sent == GIGABYTE
    assert size >= GIGABYTE
    assert await watch - before < 32 * MEGABYTE
    (job,) = await api.results(id)
    assert job["status"] == "success"
    output = job["result"]["output"]
    assert (output["truncated"], output["bytes"], len(output["output"])) == (True, GIGABYTE, MEGABYTE)


async def test_a_reader_that_sleeps_holds_up_the_container_and_one_that_leaves_frees_everything(
    served: tuple[Source, Served, Api],
) -> None:
    source, node, api = served
    await api.get("/health")
    before, descriptors = node.resident_bytes, node.descriptors
    async with stream(api) as (id, _):
        sent = -1
        while source.sent > sent:  # until every buffer on the way is full
            sent = source.sent
            await asyncio.sleep(0.5)
        assert source.sent < 64 * MEGABYTE
        assert node.resident_bytes - before < 32 * MEGABYTE
        assert source.open == 1
    await until(lambda: not source.open and node.descriptors <= descriptors)
    (job,) = await api.results(id)
    assert job["result"] == {"container": "source", "error": "cancelled"}


async def test_a_node_that_is_killed_in_mid_stream_fails_it_at_its_next_start(
    served: tuple[Source, Served, Api], tmp_path: Path
) -> None:
    _, node, api = served
    async with stream(api) as (id, raw), asyncio.timeout(20):
        assert await raw.reader.read(MEGABYTE)
        node.signal(signal.SIGKILL)
        with suppress(ConnectionError):
            while await raw.reader.read(MEGABYTE):
                pass
    await node.ended()
    async with serve(tmp_path / "node.toml") as (_, again):
        (job,) = await again.results(id)
    assert job["status"] == "failed"
    assert job["result"] == {"container": "source", "error": "interrupted"}
