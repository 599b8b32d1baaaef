"""Misbehaving containers, and the effects on the job, the node's memory, the connection and other clients.

The table in docs/explanation/under-pressure.md says the same.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, TypeAlias

import msgspec
import pytest
from components import until
from connections import listening
from http_api import Api
from served import Served, serve
from service_process import service

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("bad containers")]

MEGABYTE = 1024 * 1024
GIGABYTE = 1024 * MEGABYTE
PIECE = b"x" * MEGABYTE
TOO_LARGE = "the reply is larger than 16777216 bytes"
TIMEOUT_SECONDS = 1
PATIENT_SECONDS = 600

NODE_FILE = """
[store]
use = "sqlite"
path = "jobs.db"

[[runners]]
use = "remote"
{containers}

[[transports]]
use = "asgi"
bind = "127.0.0.1:0"
"""
CONTAINER = """
[[runners.containers]]
id = "{id}"
url = "{url}"
timeout_seconds = {timeout}
"""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


# -- how they misbehave -------------------------------------------------------------------------------

Writer: TypeAlias = asyncio.StreamWriter
Behaviour: TypeAlias = Callable[[Writer], Awaitable[None]]


async def send(writer: Writer, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def hangs(writer: Writer) -> None:
    await asyncio.sleep(600)


async def drips(writer: Writer) -> None:
    await send(writer, b"HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\n")
    for _ in range(600):
        await send(writer, b" ")
        await asyncio.sleep(1)


async def sends_a_gigabyte(writer: Writer) -> None:
    await send(writer, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % GIGABYTE)
    for _ in range(0, GIGABYTE, len(PIECE)):
        await send(writer, PIECE)


async def sends_a_gigabyte_in_chunks(writer: Writer) -> None:
    await send(writer, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(0, GIGABYTE, len(PIECE)):
        await send(writer, b"%x\r\n%s\r\n" % (len(PIECE), PIECE))
    await send(writer, b"0\r\n\r\n")


async def sends_a_gigabyte_compressed(writer: Writer) -> None:
    packer = zlib.compressobj(wbits=31)
    first = packer.compress(PIECE) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(PIECE) + packer.flush(zlib.Z_FULL_FLUSH)  # the same bytes: a full flush resets it
    packed = first + again * (GIGABYTE // len(PIECE))
    await send(writer, b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed))
    await send(writer, packed)
    await asyncio.sleep(600)


async def closes_at_once(writer: Writer) -> None:
    writer.close()


async def resets_in_mid_reply(writer: Writer) -> None:
    await send(writer, b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"half":')
    writer.transport.abort()


async def sends_10000_headers(writer: Writer) -> None:
    lines = b"".join(b"X-Header-%d: of no use\r\n" % number for number in range(10_000))
    await send(writer, b"HTTP/1.1 200 OK\r\n%sContent-Length: 2\r\n\r\n{}" % lines)
    await asyncio.sleep(600)


async def sends_a_header_without_end(writer: Writer) -> None:
    await send(writer, b"HTTP/1.1 200 OK\r\nX-Header: ")
    while True:
        await send(writer, PIECE)


async def sends_a_trailer_without_end(writer: Writer) -> None:
    await send(writer, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Trailer: ")
    while True:
        await send(writer, PIECE)


class BadContainer:
    """Treats each connection as it is told, and sees if the node closes it."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self.url = ""
        self.connections = self.open = 0

    async def connected(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        self.connections += 1
        self.open += 1
        with suppress(OSError, asyncio.IncompleteReadError):
            if self._behaviour is not closes_at_once:
                await reader.readuntil(b"\r\n\r\n")
            answering = asyncio.create_task(self._behaviour(writer))
            try:
                while await reader.read(65536):
                    pass
            finally:
                answering.cancel()
                await asyncio.gather(answering, return_exceptions=True)
        self.open -= 1
        writer.close()


@asynccontextmanager
async def container_that(behaviour: Behaviour) -> AsyncIterator[BadContainer]:
    container = BadContainer(behaviour)
    async with listening(container.connected) as server:
        container.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield container


# -- what comes of it ---------------------------------------------------------------------------------


class Peak:
    """The highest resident memory of a node's process, sampled again and again."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self.before = self.most = served.resident_bytes

    async def look(self) -> None:
        while True:
            self.most = max(self.most, self._served.resident_bytes)
            await asyncio.sleep(0.01)

    @property
    def growth(self) -> int:
        return self.most - self.before


@asynccontextmanager
async def peak_of(served: Served) -> AsyncIterator[Peak]:
    peak = Peak(served)
    task = asyncio.create_task(peak.look())
    try:
        yield peak
    finally:
        task.cancel()


async def failure(api: Api, id: str) -> dict[str, Any]:
    """Return the error of a failed job, from its history."""
    await api.get(f"/api/jobs?id={id}&wait=60")
    history: dict[str, Any] = (await api.get(f"/api/jobs/{id}")).json
    assert history["status"] == "failed", history
    (step,) = history["steps"]
    (attempt,) = step["attempts"]
    assert attempt["error"] == step["error"]
    return attempt


LOST = "the connection to {url}/service_output was dropped before the reply was complete"
CASES: dict[Behaviour, tuple[str, str]] = {
    hangs: ("timeout", f"no reply within {TIMEOUT_SECONDS} s"),
    drips: ("timeout", f"no reply within {TIMEOUT_SECONDS} s"),
    sends_a_gigabyte: ("too_large", TOO_LARGE),
    sends_a_gigabyte_in_chunks: ("too_large", TOO_LARGE),
    sends_a_gigabyte_compressed: ("too_large", TOO_LARGE),
    closes_at_once: ("connection", LOST),
    resets_in_mid_reply: ("connection", LOST),
    sends_10000_headers: ("connection", LOST),
    sends_a_header_without_end: ("connection", LOST),
    sends_a_trailer_without_end: ("connection", LOST),
}


class Bed(msgspec.Struct):
    """A node with a good container, and one for each way to be bad."""

    served: Served
    api: Api
    bad: dict[Behaviour, BadContainer]

    async def others_work(self) -> None:
        ids = [await self.api.submit("good", n=n) for n in range(50)]
        assert {job["status"] for job in await self.api.results(*ids)} == {"success"}


@pytest.fixture(scope="module")
async def bed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bed]:
    file = tmp_path_factory.mktemp("node") / "node.toml"
    async with AsyncExitStack() as stack:
        good = await stack.enter_async_context(service())
        tables = [CONTAINER.format(id="good", url=f"{good}/0.0", timeout=60)]
        bad: dict[Behaviour, BadContainer] = {}
        for behaviour, (kind, _) in CASES.items():
            bad[behaviour] = one = await stack.enter_async_context(container_that(behaviour))
            timeout = TIMEOUT_SECONDS if kind == "timeout" else 60
            tables.append(CONTAINER.format(id=behaviour.__name__, url=one.url, timeout=timeout))
        tables.append(CONTAINER.format(id="patient", url=bad[hangs].url, timeout=PATIENT_SECONDS))
        file.write_text(NODE_FILE.format(containers="".join(tables)))
        served, api = await stack.enter_async_context(serve(file))
        found = Bed(served, api, bad)
        await found.others_work()
        yield found


@pytest.mark.parametrize("behaviour", CASES, ids=lambda behaviour: behaviour.__name__)
async def test_a_container_that(bed: Bed, behaviour: Behaviour) -> None:
    (kind, text), served, api, bad = CASES[behaviour], bed.served, bed.api, bed.bad[behaviour]
    async with peak_of(served) as peak:
        id = await api.submit(behaviour.__name__, n=0)
        await until(lambda: bad.connections)
        await bed.others_work()
        failed = await failure(api, id)
    print(f"\n{behaviour.__name__}: {failed}; {peak.growth / MEGABYTE:.0f} MB more than before")
    assert failed["kind"] == kind
    assert failed["error"].startswith(text.format(url=bad.url))
    assert peak.growth < 60 * MEGABYTE  # of a reply, at most 16 MiB are kept
    await until(lambda: not bad.open)
    health = await api.get("/health")
    down = any(reason.startswith(f"container {behaviour.__name__!r}: ") for reason in health.json.get("reasons", []))
    assert (health.status, down) == (200, kind == "connection")
    assert "Traceback" not in served.log


async def test_nobody_waits_for_a_container_that_others_wait_for(bed: Bed) -> None:
    before = bed.bad[hangs].connections
    id = await bed.api.submit("patient", n=0)
    await until(lambda: bed.bad[hangs].connections > before)
    await bed.others_work()
    assert (await bed.api.call("DELETE", f"/api/jobs/{id}")).json["result"]["error"] == "cancelled"
    await until(lambda: not bed.bad[hangs].open)
