"""Memory of a node's process: idle, with many stored jobs, and when it receives bodies that are too large."""

from pathlib import Path

import pytest
from chance import each_run
from http_api import Api, both_servers
from served import Served, serve

from nodekit.testing import make_job, succeeded
from nodekit_sqlite import SqliteTable

pytestmark = pytest.mark.anyio

MEGABYTE = 1024 * 1024
MOST_IDLE = 60 * MEGABYTE

NODE_FILE = """
[store]
use = "sqlite"
path = "jobs.db"

[[runners]]
use = "remote"

[[transports]]
use = "asgi"
bind = "127.0.0.1:0"
server = "{server}"
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def node_file(folder: Path, server: str = "hypercorn") -> Path:
    file = folder / "node.toml"
    file.write_text(NODE_FILE.format(server=server))
    return file


async def resident(file: Path, listed: int) -> int:
    async with serve(file) as (served, api):
        for _ in range(3):
            assert len((await api.get("/api/jobs")).json) == listed
            assert len((await api.get("/api/jobs?pending=false&limit=1000")).json) == min(listed, 1000)
            await api.get("/info")
            await api.get("/health")
        return served.resident_bytes


async def test_an_idle_node_does_not_grow_with_the_jobs_it_keeps(tmp_path: Path) -> None:
    file, count = node_file(tmp_path), each_run(20_000, 50_000)
    empty = await resident(file, 0)
    async with SqliteTable(tmp_path / "jobs.db", synchronous="NORMAL") as table:
        for _ in range(0, count, 2000):
            await table.add([succeeded(make_job("c0", client="127.0.0.1", data={"n": "x" * 200})) for _ in range(2000)])
    full = await resident(file, count)
    print(f"\n{empty / MEGABYTE:.0f} MB with no job, {full / MEGABYTE:.0f} MB with {count}")
    assert full < empty + 12 * MEGABYTE


@both_servers
async def test_100_megabytes_are_413_and_leave_memory_as_it_was(tmp_path: Path, server: str) -> None:
    async with serve(node_file(tmp_path, server)) as (served, api):
        await api.get("/info")
        before = most = served.resident_bytes
        assert before < MOST_IDLE
        for framing in ("Content-Length: 104857600", "Transfer-Encoding: chunked"):
            most = max(most, await send_100_megabytes(api, served, framing))
        assert (await api.get("/health")).status == 200
        assert most < before + 80 * MEGABYTE  # the body that is let in is 16 MiB, in pieces and then whole


async def send_100_megabytes(api: Api, served: Served, framing: str) -> int:
    """Send the node 100 MB; return its highest memory meanwhile."""
    piece, most = b"x" * MEGABYTE, 0
    framed = piece if framing.startswith("Content") else b"%x\r\n%s\r\n" % (len(piece), piece)
    async with api.raw() as connection:
        head = f"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n"
        await connection.send(head.encode() + framed)
        try:
            for _ in range(99):
                await connection.send(framed)
                most = max(most, served.resident_bytes)
            answer = await connection.answer()
        except ConnectionError:
            return most  # it has stopped reading, and its reset may have overtaken the reply
        assert (answer.status, bool(answer.error)) == (413, True)
    return most
