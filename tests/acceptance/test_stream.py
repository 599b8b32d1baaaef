"""`POST /api/jobs/stream`, over real sockets."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anyio
import h2.config
import h2.connection
import h2.events
import pytest
from http_api import Api, RawConnection, post, serving
from parts import Gate, echo, until

from nodekit import Container
from nodekit_function import FunctionRunner

pytestmark = pytest.mark.anyio

PATH = "/api/jobs/stream"


class Source:
    """What the streaming container does, and how far it got."""

    def __init__(self) -> None:
        self.more = asyncio.Event()
        self.given = self.calls = self.left = 0

    async def pieces(self, data: Any) -> AsyncGenerator[bytes, None]:
        """What the job says: ``…`` waits to be told, ``!`` fails, ``*`` is a megabyte, ``∞`` has no end."""
        self.calls += 1
        try:
            for piece in data["pieces"]:
                match piece:
                    case "…":
                        await self.more.wait()
                    case "!":
                        raise ValueError("as it was told")
                    case "∞":
                        while True:
                            self.given += 1
                            yield b"x" * (1 << 20)
                    case "*":
                        yield b"*" * (1 << 20)
                    case _:
                        yield piece.encode()
        finally:
            self.left += 1


def runner(source: Source, gate: Gate) -> FunctionRunner:
    runner = FunctionRunner()
    for id, function in {"echo": echo, "gate": gate, "pieces": source.pieces}.items():
        runner.add(Container(id=id), function)
    runner.add(Container(id="hasty", timeout_seconds=0.2), source.pieces)
    return runner


@asynccontextmanager
async def streaming(server: str, **settings: Any) -> AsyncIterator[tuple[Api, Source]]:
    source, gate = Source(), Gate()
    async with serving(server, runners=[runner(source, gate)], **settings) as api:
        api.gate = gate
        yield api, source


@pytest.fixture
async def streams(server: str) -> AsyncIterator[tuple[Api, Source]]:
    async with streaming(server) as both:
        yield both


def asked(*pieces: str, containers: Any = ("pieces",)) -> Any:
    return {"containers": containers, "data": {"pieces": pieces}}


@asynccontextmanager
async def begun(api: Api, *pieces: str, **options: Any) -> AsyncIterator[tuple[str, RawConnection]]:
    """A stream whose id has arrived, and what is behind it."""
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
    """The next one of a chunked body; the last one is empty."""
    async with asyncio.timeout(20):
        size = int(await raw.reader.readuntil(b"\r\n"), 16)
        data = await raw.reader.readexactly(size)
        assert await raw.reader.readexactly(2) == b"\r\n"
        return data


async def finished(api: Api, id: str) -> Any:
    (job,) = await api.results(id, intermediate=True)
    return job


async def truncated(raw: RawConnection) -> bytes:
    """What still comes, of a body that has no last chunk."""
    pieces: list[bytes] = []
    with pytest.raises(asyncio.IncompleteReadError):
        await _chunks(raw, pieces)
    return b"".join(pieces)


async def _chunks(raw: RawConnection, pieces: list[bytes]) -> None:
    while piece := await chunk(raw):
        pieces.append(piece)


async def test_the_id_comes_alone_and_first_and_then_the_bytes_as_they_come(streams: tuple[Api, Source]) -> None:
    api, source = streams
    async with begun(api, "a", "…", "b") as (id, raw):
        assert await chunk(raw) == b"a"
        assert (await api.get(f"/api/jobs?id={id}")).json[0]["status"] == "running"
        source.more.set()
        assert await chunk(raw) == b"b"
        assert await chunk(raw) == b""
        assert (await api.get(f"/api/jobs?id={id}")).json == [
            {"id": id, "status": "success", "result": {"container": "pieces", "output": {"output": "ab"}}}
        ], "it is stored before the stream has ended"


async def test_the_id_is_sent_before_the_container_is_called(streams: tuple[Api, Source]) -> None:
    api, source = streams
    async with begun(api, "…", containers=("gate", "pieces")) as (id, _):
        assert (await api.get(f"/api/jobs?id={id}")).json[0]["id"] == id
        assert source.calls == 0


async def test_all_but_the_last_container_run_first(streams: tuple[Api, Source]) -> None:
    api, _ = streams
    answer = await api.post(PATH, asked("a", "b", containers=("echo", "echo", "pieces")))
    id, _, text = answer.body.partition(b"\n")
    assert text == b"ab"
    job = await finished(api, id.decode())
    assert [result["container"] for result in job["intermediate_results"]] == ["echo", "echo"]


async def test_pieces_of_one_byte_and_of_a_megabyte_pass(streams: tuple[Api, Source]) -> None:
    api, _ = streams
    answer = await api.post(PATH, asked(*"abc" * 200, *"*" * 5, "ü"))
    id, _, text = answer.body.partition(b"\n")
    assert text == b"abc" * 200 + b"*" * (5 << 20) + "ü".encode()
    output = (await finished(api, id.decode()))["result"]["output"]
    assert output["truncated"] is True
    assert output["bytes"] == len(text)
    assert output["output"] == text[: 1 << 20].decode()


async def test_a_container_that_fails_in_mid_stream_truncates_the_response(streams: tuple[Api, Source]) -> None:
    api, _ = streams
    async with begun(api, "a", "!") as (id, raw):
        assert await truncated(raw) == b"a"
    job = await finished(api, id)
    assert job["status"] == "failed"
    assert job["result"] == {"container": "pieces", "error": "ValueError: as it was told"}
    with pytest.raises(aiohttp.ClientPayloadError):
        await api.post(PATH, asked("a", "!"))


async def test_a_call_that_takes_too_long_and_a_job_that_is_cancelled_truncate_it(streams: tuple[Api, Source]) -> None:
    api, source = streams
    async with begun(api, "a", "…", containers=("hasty",)) as (id, raw):
        assert await truncated(raw) == b"a"
    assert (await finished(api, id))["result"]["error"] == "no reply within 0.2 s"
    async with begun(api, "a", "…") as (id, raw):
        assert await chunk(raw) == b"a"
        assert (await api.call("DELETE", f"/api/jobs/{id}")).json["result"]["error"] == "cancelled"
        assert await truncated(raw) == b""
    assert source.left == 2


@pytest.mark.parametrize("when", ["it waits for a piece", "it is sent more than it reads"])
async def test_a_client_that_disconnects_cancels_the_step(streams: tuple[Api, Source], when: str) -> None:
    api, source = streams
    async with begun(api, "a", "…" if when == "it waits for a piece" else "∞") as (id, raw):
        assert await chunk(raw) == b"a"
    await until(lambda: source.left == 1, seconds=5)
    job = await finished(api, id)
    assert (job["status"], job["result"]) == ("failed", {"container": "pieces", "error": "cancelled"})
    assert (await api.get("/info")).json["pending"]["offchain"] == 0


@pytest.mark.parametrize(
    "behind",
    [b"\r\n", b"GET /info HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"GET /in", b"\x00\x01", post(b"x" * 100_000)],
    ids=["a newline", "a request", "half a request", "garbage", "much"],
)
async def test_a_client_that_disconnects_is_noticed_also_behind_what_it_has_sent_on(
    streams: tuple[Api, Source], behind: bytes
) -> None:
    api, source = streams
    async with begun(api, "a", "…") as (id, raw):
        assert await chunk(raw) == b"a"
        await raw.send(behind)
    await until(lambda: source.left == 1, seconds=10)
    assert (await finished(api, id))["result"] == {"container": "pieces", "error": "cancelled"}
    assert (await api.get("/info")).json["pending"]["offchain"] == 0


async def test_a_request_behind_a_stream_is_answered_after_it(streams: tuple[Api, Source]) -> None:
    api, source = streams
    async with begun(api, "a", "…", "b") as (_, raw):
        assert await chunk(raw) == b"a"
        await raw.send(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await asyncio.sleep(1.2)  # longer than it takes to be looked for
        source.more.set()
        assert [await chunk(raw), await chunk(raw)] == [b"b", b""]
        assert (await raw.answer()).status == 200


async def test_a_slow_reader_slows_the_container_down(streams: tuple[Api, Source]) -> None:
    api, source = streams
    async with begun(api, "∞"):
        await until(lambda: source.given)
        before = -1
        while source.given > before:  # until all buffers on the way are full
            before = source.given
            await asyncio.sleep(0.3)
        assert source.given < 32, "MiB were taken from the container, and read by nobody"


async def test_errors_come_before_the_first_byte(streams: tuple[Api, Source]) -> None:
    api, _ = streams
    for body, status, error in (
        (asked(containers=()), 400, "No containers specified"),
        (asked(containers=("nobody",)), 400, "Container not supported"),
        ({"containers": ["echo"]}, 400, "data: is missing; expected an object"),
        ({"containers": ["echo"], "data": []}, 400, "data: expected an object"),
        ({"signature": {}, "subscription": {}}, 400, "Chain not enabled"),
        (b"{", 400, "the body is not JSON: a number or text is cut short"),
    ):
        answer = await api.post(PATH, body)
        assert (answer.status, answer.error) == (status, error)
    answer = await api.post(PATH, asked("a"), headers={"Idempotency-Key": "k"})
    assert answer.status == 400
    assert answer.error.startswith("Idempotency-Key: ")
    assert (await api.get(PATH)).status == 405


async def test_a_node_that_holds_as_many_jobs_as_it_may_takes_no_stream(server: str) -> None:
    async with streaming(server, node={"max_pending": 1}) as (api, _), begun(api, "…"):
        answer = await api.post(PATH, asked("a"))
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) >= 1


async def test_the_job_is_as_urgent_as_the_client_says(streams: tuple[Api, Source]) -> None:
    api, _ = streams
    answer = await api.post(PATH, asked("a"), headers={"Priority": "u=6"})
    id = answer.body.partition(b"\n")[0].decode()
    assert (await api.get(f"/api/jobs/{id}")).json["priority"] == 6


async def test_over_http_1_0_a_broken_stream_would_look_whole_and_is_refused(
    streams: tuple[Api, Source],
) -> None:
    api, source = streams
    async with api.raw() as raw:
        await raw.send(post(json.dumps(asked("a")).encode(), path=PATH).replace(b"HTTP/1.1", b"HTTP/1.0"))
        answer = await raw.answer()
    assert answer.status == 505
    assert answer.error == "a stream needs HTTP/1.1, not HTTP/1.0"
    assert source.calls == 0


async def test_over_http_2_a_stream_that_breaks_could_not_be_ended_and_is_refused(
    streams: tuple[Api, Source], server: str
) -> None:
    if server != "hypercorn":
        pytest.skip("uvicorn speaks no HTTP/2")
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


async def test_other_requests_are_served_while_many_streams_are_open(streams: tuple[Api, Source]) -> None:
    api, source = streams
    async with anyio.create_task_group() as tasks:

        async def one() -> None:
            async with begun(api, "a", "…", "b") as (_, raw):
                assert [await chunk(raw), await chunk(raw), await chunk(raw)] == [b"a", b"b", b""]

        for _ in range(50):
            tasks.start_soon(one)
        await until(lambda: source.calls == 50)
        assert (await api.get("/health")).status == 200
        source.more.set()
    assert (await api.get("/info")).json["pending"]["offchain"] == 0
