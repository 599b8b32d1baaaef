"""`POST /api/jobs/stream`, over real sockets."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
from components import until
from http_api import Api, RawConnection, both_servers, post, serving

from nodekit import Container
from nodekit_asgi.server import hypercorn_connections as _hypercorn
from nodekit_asgi.server import uvicorn_protocol as _uvicorn
from nodekit_asgi.server.disconnects import has_gone
from nodekit_function import FunctionRunner

pytestmark = pytest.mark.anyio

PATH = "/api/jobs/stream"


class Source:
    """The streaming container, and how far it got."""

    def __init__(self) -> None:
        self.more = asyncio.Event()
        self.calls = self.left = 0

    async def pieces(self, data: Any) -> AsyncGenerator[bytes, None]:
        """Yield the pieces that the job asks for: ``…`` waits for the test, ``*`` is a megabyte."""
        self.calls += 1
        try:
            for piece in data["pieces"]:
                match piece:
                    case "…":
                        await self.more.wait()
                    case "*":
                        yield b"*" * (1 << 20)
                    case _:
                        yield piece.encode()
        finally:
            self.left += 1


def runner(source: Source) -> FunctionRunner:
    runner = FunctionRunner()
    runner.add(Container(id="pieces"), source.pieces)
    runner.add(Container(id="hasty", timeout_seconds=0.5), source.pieces)
    return runner


@pytest.fixture
async def streams(server: str) -> AsyncIterator[tuple[Api, Source]]:
    source = Source()
    async with serving(server, runners=[runner(source)]) as api:
        yield api, source


def asked(*pieces: str, containers: Any = ("pieces",)) -> Any:
    return {"containers": containers, "data": {"pieces": pieces}}


@asynccontextmanager
async def begun(api: Api, *pieces: str, **options: Any) -> AsyncIterator[tuple[str, RawConnection]]:
    """Start a stream; its id has arrived, and the bytes follow."""
    async with api.raw() as raw:
        await raw.send(post(json.dumps(asked(*pieces, **options)).encode(), path=PATH))
        async with asyncio.timeout(20):
            head = (await raw.reader.readuntil(b"\r\n\r\n")).decode().lower()
            assert head.startswith("http/1.1 200 ")
            assert "content-type: application/octet-stream" in head
            assert "transfer-encoding: chunked" in head
            id = (await chunk(raw)).decode()
        assert id.endswith("\n")
        yield id.strip(), raw


async def chunk(raw: RawConnection) -> bytes:
    """Read the next chunk of a body; the last one is empty."""
    async with asyncio.timeout(20):
        size = int(await raw.reader.readuntil(b"\r\n"), 16)
        data = await raw.reader.readexactly(size)
        assert await raw.reader.readexactly(2) == b"\r\n"
        return data


async def finished(api: Api, id: str) -> Any:
    (job,) = await api.results(id, intermediate=True)
    return job


async def truncated(raw: RawConnection) -> bytes:
    """Return the rest of a body that has no last chunk."""
    pieces: list[bytes] = []
    with pytest.raises(asyncio.IncompleteReadError):
        await _chunks(raw, pieces)
    return b"".join(pieces)


async def _chunks(raw: RawConnection, pieces: list[bytes]) -> None:
    while piece := await chunk(raw):
        pieces.append(piece)


@both_servers
async def test_pieces_of_one_byte_and_of_a_megabyte_pass(streams: tuple[Api, Source]) -> None:
    api, _ = streams
    answer = await api.post(PATH, asked(*"abc" * 200, *"*" * 5, "ü"))
    id, _, text = answer.body.partition(b"\n")
    assert text == b"abc" * 200 + b"*" * (5 << 20) + "ü".encode()
    output = (await finished(api, id.decode()))["result"]["output"]
    assert output["truncated"] is True
    assert output["bytes"] == len(text)
    assert output["output"] == text[: 1 << 20].decode()


async def test_a_call_that_takes_too_long_and_a_job_that_is_cancelled_truncate_it(streams: tuple[Api, Source]) -> None:
    api, source = streams
    async with begun(api, "a", "…", containers=("hasty",)) as (id, raw):
        assert await truncated(raw) in (b"a", b"")  # it may have been late already
    assert (await finished(api, id))["result"]["error"] == "no reply within 0.5 s"
    async with begun(api, "a", "…") as (id, raw):
        assert await chunk(raw) == b"a"
        assert (await api.call("DELETE", f"/api/jobs/{id}")).json["result"]["error"] == "cancelled"
        assert await truncated(raw) == b""
    assert source.left == source.calls


BEHIND = {
    "a newline": b"\r\n",
    "a request": b"GET /info HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "half a request": b"GET /in",
    "garbage": b"\x00\x01",
    "much": post(b"x" * 100_000),
}


@both_servers
async def test_a_client_that_disconnects_is_noticed_also_behind_what_it_has_sent_on(
    streams: tuple[Api, Source],
) -> None:
    api, _ = streams

    async def leave(behind: bytes) -> str:
        async with begun(api, "a", "…") as (id, raw):
            assert await chunk(raw) == b"a"
            await raw.send(behind)
        return id

    ids = await asyncio.gather(*map(leave, BEHIND.values()))
    jobs = await api.results(*ids)
    cancelled = {"container": "pieces", "error": "cancelled"}
    assert {name: job["result"] for name, job in zip(BEHIND, jobs, strict=True)} == dict.fromkeys(BEHIND, cancelled)
    assert (await api.get("/info")).json["pending"]["offchain"] == 0


class Looks:
    """Counts the checks for a client that has left."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, connection: Any) -> bool:
        self.count += 1
        return has_gone(connection)


@both_servers
async def test_a_request_behind_a_stream_is_answered_after_it(
    server: str, streams: tuple[Api, Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    api, source = streams
    looks, module = Looks(), {"hypercorn": _hypercorn, "uvicorn": _uvicorn}[server]
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(module, "has_gone", looks)
    async with begun(api, "a", "…", "b") as (_, raw):
        assert await chunk(raw) == b"a"
        await raw.send(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await until(lambda: looks.count > 2)
        source.more.set()
        assert [await chunk(raw), await chunk(raw)] == [b"b", b""]
        assert (await raw.answer()).status == 200


async def test_the_job_is_as_urgent_as_the_client_says(streams: tuple[Api, Source]) -> None:
    api, _ = streams
    answer = await api.post(PATH, asked("a"), headers={"Priority": "u=6"})
    id = answer.body.partition(b"\n")[0].decode()
    assert (await api.get(f"/api/jobs/{id}")).json["priority"] == 6


@pytest.mark.parametrize("server", ["hypercorn"])  # uvicorn speaks no HTTP/2
async def test_over_http_2_a_stream_that_breaks_could_not_be_ended_and_is_refused(streams: tuple[Api, Source]) -> None:
    api, source = streams
    client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    client.initiate_connection()
    body = json.dumps(asked("a")).encode()
    head = {":method": "POST", ":scheme": "http", ":authority": "127.0.0.1", ":path": PATH}
    client.send_headers(1, list(head.items()))
    client.send_data(1, body, end_stream=True)
    seen: list[Any] = []
    async with api.raw() as connection, asyncio.timeout(20):
        await connection.send(client.data_to_send())
        while not any(isinstance(event, h2.events.StreamEnded) for event in seen):
            seen += client.receive_data(await connection.reader.read(65536))
    (replied,) = [event for event in seen if isinstance(event, h2.events.ResponseReceived)]
    assert dict(replied.headers)[":status"] == "505"
    assert source.calls == 0
