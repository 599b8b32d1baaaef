"""`POST /api/jobs/stream`, over real sockets."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from components import functions, until
from connections import Http2
from http_api import Api, RawConnection, both_servers, post, serving

from nodekit_asgi.server import disconnects as _disconnects
from nodekit_asgi.server import hypercorn_connections as _hypercorn
from nodekit_asgi.server import uvicorn_protocol as _uvicorn
from nodekit_asgi.server.disconnects import has_gone

pytestmark = pytest.mark.anyio

PATH = "/api/jobs/stream"


class Source:
    """The streaming container."""

    def __init__(self) -> None:
        self.more = asyncio.Event()
        self.calls = 0

    async def pieces(self, data: Any) -> AsyncGenerator[bytes, None]:
        """Yield the pieces that the job asks for: ``…`` waits for the test, ``*`` is a megabyte."""
        self.calls += 1
        for piece in data["pieces"]:
            match piece:
                case "…":
                    await self.more.wait()
                case "*":
                    yield b"*" * (1 << 20)
                case _:
                    yield piece.encode()


@pytest.fixture
async def streams(server: str) -> AsyncIterator[tuple[Api, Source]]:
    source = Source()
    async with serving(server, runners=[functions(pieces=source.pieces)]) as api:
        yield api, source


def asked(*pieces: str) -> Any:
    return {"containers": ["pieces"], "data": {"pieces": pieces}}


@asynccontextmanager
async def begun(api: Api, *pieces: str) -> AsyncIterator[tuple[str, RawConnection]]:
    """Start a stream; its id has arrived, and the bytes follow."""
    async with api.raw() as raw:
        await raw.send(post(json.dumps(asked(*pieces)).encode(), path=PATH))
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


@both_servers
async def test_pieces_of_one_byte_and_of_a_megabyte_pass(streams: tuple[Api, Source]) -> None:
    api, _ = streams
    answer = await api.post(PATH, asked(*"abc" * 200, *"*" * 5, "ü"), headers={"Priority": "u=6"})
    id, _, text = answer.body.partition(b"\n")
    assert text == b"abc" * 200 + b"*" * (5 << 20) + "ü".encode()
    (job,) = await api.results(id.decode())
    assert job["result"]["output"] == {"output": text[: 1 << 20].decode(), "truncated": True, "bytes": len(text)}
    assert (await api.get(f"/api/jobs/{id.decode()}")).json["priority"] == 6


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
    monkeypatch.setattr(_disconnects if server == "hypercorn" else module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(module, "has_gone", looks)
    async with begun(api, "a", "…", "b") as (_, raw):
        assert await chunk(raw) == b"a"
        await raw.send(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await until(lambda: looks.count > 2)
        source.more.set()
        assert [await chunk(raw), await chunk(raw)] == [b"b", b""]
        assert (await raw.answer()).status == 200


async def test_over_http_2_a_stream_that_breaks_could_not_be_ended_and_is_refused(api2: Api) -> None:
    async with api2.raw() as connection:
        client = Http2(connection)
        await client.request(1, "POST", PATH, json.dumps(asked("a")).encode())
        assert await client.replied() == (1, "505")
    assert (await api2.get("/api/jobs")).json == []
