"""Clients that are too slow, in any phase of a request, lose their connection. Quiet ones that owe nothing keep it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from components import functions, until
from connections import accepted, ask, rest, waiters
from deadline_time import Time, stopped
from http_api import Api, RawConnection, both_servers, post, serving

from nodekit import JobRequest
from nodekit_asgi import Limits
from nodekit_asgi.http.pace import BodyPace

pytestmark = pytest.mark.anyio

INFO = ask("/info")
JOB = b'{"containers":["echo"],"data":{}}'
JOB_IN_CHUNKS = b"%x\r\n%s\r\n" % (len(JOB), JOB)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return stopped(monkeypatch)


@asynccontextmanager
async def connected(api: Api) -> AsyncIterator[RawConnection]:
    if api.url.startswith("unix:"):
        reader, writer = await asyncio.open_unix_connection(api.url.removeprefix("unix:"))
    else:
        reader, writer = await asyncio.open_connection(*api.address)
    try:
        yield RawConnection(reader, writer)
    finally:
        writer.close()


@pytest.fixture(params=["tcp", "unix"])
def bind(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "127.0.0.1:0" if request.param == "tcp" else f"unix:{tmp_path / 'node.sock'}"


# -- heads --------------------------------------------------------------------------------------------

HEADS = {
    "nothing": (0, b""),
    "empty lines": (0, b"\r\n\r\n\r\n"),
    "a method": (0, b"GET"),
    "half a request line": (0, b"GET /info HT"),
    "half a header": (0, b"GET /info HTTP/1.1\r\nHost: 127"),
    "all but the last byte": (0, INFO[:-1]),
    "an upgrade": (0, INFO[:-2] + b"Connection: upgrade\r\nUpgrade: h2c\r\n"),
    "the beginning of HTTP/2": (0, b"PRI * HTTP/2.0\r\n"),
    "half of a second head": (1, INFO + INFO[:9]),
    "half of a head behind a body": (1, post(JOB) + INFO[:9]),
    "empty lines behind a request": (1, INFO + b"\r\n\r\n"),
    "half of the tenth of a pipeline": (9, INFO * 9 + INFO[:30]),
}


@both_servers
async def test_who_does_not_send_a_whole_head_is_cut_off(server: str, bind: str, time: Time) -> None:
    async with serving(server, bind=bind) as api:
        for name, (whole, sent) in HEADS.items():
            async with connected(api) as connection:
                await connection.send(sent)
                for _ in range(whole):
                    assert (await connection.answer()).status == 200, name
                end = await time.pass_until_closed(connection)
                begun = sent.rpartition(b"\r\n\r\n")[2].rpartition(b"}")[2].strip()
                refused = [b"HTTP/1.1 408"] if begun else [b"", b"HTTP/1.1 400"]  # h11 refuses empty lines
                assert end[:12] in refused, name


@both_servers
async def test_a_head_that_comes_byte_by_byte_has_no_more_time(server: str, time: Time) -> None:
    async with serving(server) as api, connected(api) as connection:
        sent = 0
        task = asyncio.create_task(rest(connection))
        with suppress(ConnectionError):
            while not task.done():
                await connection.send(b"GET /info HTTP/1.1\r\nX: "[sent : sent + 1] or b"x")
                sent += 1
                time.pass_by(1)
                await asyncio.sleep(0.005)
        assert (await task)[:13] in (b"HTTP/1.1 408 ", b"")  # the last byte may have come after the end
        assert sent < 30


@both_servers
async def test_a_head_within_its_time_is_answered_and_the_next_one_has_as_much(server: str, time: Time) -> None:
    async with serving(server) as api, connected(api) as connection:
        for _ in range(5):
            await connection.send(INFO[:20])
            time.pass_by(9)
            await connection.send(INFO[20:])
            assert (await connection.answer()).status == 200


@both_servers
async def test_a_kept_connection_without_a_request_is_closed_after_its_time(server: str, bind: str, time: Time) -> None:
    patient = {"write_timeout_seconds": 3600}  # the client's system acknowledges a reply milliseconds later: hours here
    async with serving(server, bind=bind, **patient) as api, connected(api) as connection:
        for _ in range(3):
            await connection.send(INFO)
            assert (await connection.answer()).status == 200
            await anyio.wait_all_tasks_blocked()
            time.pass_by(74)
        await connection.send(INFO)
        assert (await connection.answer()).status == 200
        assert await time.pass_until_closed(connection) == b""


@both_servers
async def test_time_in_which_the_node_stood_still_is_not_the_clients(server: str, time: Time) -> None:
    async with serving(server) as api, connected(api) as connection:
        await connection.send(INFO[:20])
        for _ in range(4):
            time.deadlines.check(3600)
        await connection.send(INFO[20:])
        assert (await connection.answer()).status == 200


@both_servers
async def test_many_half_heads_shut_nobody_out_and_leave_no_trace(server: str, time: Time) -> None:
    async with serving(server, max_connections=40) as api:
        half = [await asyncio.open_connection(*api.address, local_addr=("127.0.0.2", 0)) for _ in range(40)]
        for _, writer in half:
            with suppress(ConnectionError):
                writer.write(INFO[:20])
        assert (await api.get("/info")).status == 200
        for connection in half:
            await time.pass_until_closed(RawConnection(*connection))
        async with api.as_other_client("127.0.0.2") as again:
            assert (await again.get("/info")).status == 200
        for _, writer in half:
            writer.close()


# -- bodies -------------------------------------------------------------------------------------------

CHUNKED = "Transfer-Encoding: chunked"
BODIES = {
    "nothing": (b"", "Content-Length: 9"),
    "all but the last byte": (JOB[:-1], f"Content-Length: {len(JOB)}"),
    "no chunk": (b"", CHUNKED),
    "half of a chunk's head": (b"1", CHUNKED),
    "half of an extension": (b"1;name=va", CHUNKED),
    "half of a chunk": (JOB_IN_CHUNKS[:9], CHUNKED),
    "no end of a chunk": (JOB_IN_CHUNKS[:-2], CHUNKED),
    "no last chunk": (JOB_IN_CHUNKS, CHUNKED),
    "half of the trailers": (JOB_IN_CHUNKS + b"0\r\nTrailer: 1\r\nAnother", CHUNKED),
}


@both_servers
async def test_a_body_that_stops_is_408_long_before_its_whole_time_is_over(server: str, bind: str) -> None:
    async with serving(server, bind=bind, body_seconds=3600, body_timeout_seconds=0.2) as api:
        for name, (body, framing) in BODIES.items():
            async with connected(api) as connection:
                await connection.send(post(body, framing))
                answer = await connection.answer()
                assert (answer.status, answer.headers["Connection"]) == (408, "close"), name
                assert answer.error == "the body did not arrive within 3600 s, or came to a stop for 0.2 s"


@both_servers
async def test_a_body_that_comes_byte_by_byte_is_408(server: str) -> None:
    async with serving(server, body_seconds=3600, body_timeout_seconds=0.5, min_bytes_per_second=100_000) as api:
        async with connected(api) as connection:
            await connection.send(post(b"", "Content-Length: 1000000"))
            task = asyncio.create_task(connection.answer())
            with suppress(ConnectionError):
                while not task.done():
                    await connection.send(b" ")
                    await asyncio.sleep(0.01)
            assert (await task).status == 408


def test_a_body_keeps_its_pace_or_ends() -> None:
    pace = BodyPace(Limits())
    assert pace.seconds == 10
    pace.waited(9, 5_000)
    assert pace.seconds == 1
    pace.waited(0.5, 5_240)  # 10 KiB in less than 10 s
    assert pace.seconds == 10
    for _ in range(5):
        pace.waited(9.5, 1 << 20)
    assert pace.seconds == 60 - 9.5 * 6
    assert BodyPace(Limits(body_seconds=3)).seconds == 3
    lenient = BodyPace(Limits(min_bytes_per_second=0))
    lenient.waited(9, 1)
    assert lenient.seconds == 10


@both_servers
async def test_a_body_that_nobody_reads_has_an_end_too(
    server: str, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodekit_asgi.http.messages.LINGER_SECONDS", 0.05)
    async with serving(server) as api, connected(api) as connection:
        await connection.send(post(b"1\r\n1\r\n", CHUNKED, path="/nope"))
        assert (await connection.answer()).status == 404
        assert await time.pass_until_closed(connection) == b""


# -- readers ------------------------------------------------------------------------------------------


async def large(data: Any) -> Any:
    return "x" * 15_000_000


def deaf_client(api: Api, sent: bytes) -> socket.socket:
    """Send a request, and do not read the reply."""
    unix = api.url.startswith("unix:")
    client = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(api.url.removeprefix("unix:") if unix else api.address)
    client.sendall(sent)
    client.setblocking(False)
    return client


async def submitted(api: Api, container: str) -> str:
    """Submit a job as the client that connects to the node."""
    client = "unix" if api.url.startswith("unix:") else "127.0.0.1"
    job = await api.node.submit(JobRequest.of(container, data={}, client=client))
    id: str = job.id
    return id


def watched(time: Time) -> int:
    """Return the number of connections that the node has."""
    return len(time.deadlines._watched)


@both_servers
@pytest.mark.parametrize("bytes_at_once", [0, 1, 500])
@pytest.mark.parametrize("path", ["/api/jobs?id={}", "/api/jobs/{}/events"])
async def test_a_reader_that_takes_nothing_or_a_trickle_is_cut_off(
    server: str, path: str, bytes_at_once: int, bind: str, time: Time
) -> None:
    async with serving(server, bind=bind, runners=[functions(large=large)]) as api:
        id = await submitted(api, "large")
        await api.node.wait([id])
        client = deaf_client(api, ask(path.format(id)))
        await until(lambda: watched(time) == 1)
        with anyio.fail_after(60):
            while watched(time):
                if bytes_at_once:
                    with suppress(BlockingIOError, ConnectionError):
                        client.recv(bytes_at_once)
                time.pass_by(1)
                await asyncio.sleep(0.005)
        client.close()


@both_servers
async def test_a_slow_reader_that_keeps_the_pace_gets_everything(server: str, bind: str, time: Time) -> None:
    async with serving(server, bind=bind, runners=[functions(large=large)]) as api:
        client = deaf_client(api, post(b'{"containers":["large"],"data":{}}', "Prefer: wait=60"))
        client.setblocking(True)
        received = 0
        async with asyncio.timeout(60):
            while received < 15_000_000:
                received += len(await asyncio.to_thread(client.recv, 1 << 16))
                time.pass_by(1)
        client.close()


@both_servers
async def test_who_waits_owes_nothing(server: str, bind: str, time: Time) -> None:
    async with serving(server, bind=bind) as api:
        id = await submitted(api, "gate")
        async with connected(api) as waiting, connected(api) as following:
            await waiting.send(ask(f"/api/jobs?id={id}&wait=60"))
            await following.send(ask(f"/api/jobs/{id}/events"))
            await until(lambda: waiters(api) == 2)
            await following.reader.readuntil(b"event: accepted")
            for _ in range(100):
                time.pass_by(100)
                await asyncio.sleep(0)
            api.gate.opened.set()
            assert (await waiting.answer()).status == 200
            async with asyncio.timeout(60):
                await following.reader.readuntil(b"event: finished")


@both_servers
@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})], ids=["uvloop"])
async def test_deadlines_hold_on_another_event_loop(server: str, time: Time) -> None:
    async with serving(server, runners=[functions(large=large)]) as api:
        id = await submitted(api, "large")
        await api.node.wait([id])
        async with connected(api) as connection:
            await connection.send(INFO + INFO[:9])
            assert (await connection.answer()).status == 200
            assert (await time.pass_until_closed(connection)).startswith(b"HTTP/1.1 408 ")
        client = deaf_client(api, ask(f"/api/jobs?id={id}"))
        await until(lambda: watched(time) == 1)
        await until(lambda: (time.pass_by(1), not watched(time))[1])
        client.close()


@both_servers
async def test_a_reader_that_takes_nothing_is_cut_off_in_real_time_too(server: str) -> None:
    settings = {"write_timeout_seconds": 0.2, "idle_timeout_seconds": 0.2, "header_timeout_seconds": 0.2}
    async with serving(server, runners=[functions(large=large)], **settings) as api:
        id = await submitted(api, "large")
        await api.node.wait([id])
        client = deaf_client(api, ask(f"/api/jobs?id={id}"))
        await until(lambda: accepted(api.address[1]) > 0)
        await until(lambda: accepted(api.address[1]) == 0)
        client.close()
