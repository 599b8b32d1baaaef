"""Floods on one connection: what is not needed yet is not read, and a client that has gone is not served."""

import asyncio
import gc
import logging
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import anyio
import pytest
from components import functions, until
from connections import accepted, ask, reset, rest, waiters
from http_api import RawConnection, post, serving
from hypercorn.protocol.http_stream import HTTPStream
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from nodekit import JobQuery, JobRequest
from nodekit_asgi.api.routes import ROUTES
from nodekit_asgi.server import disconnects, uvicorn_protocol
from nodekit_asgi.server.hypercorn_streams import BODY_AHEAD_BYTES, Inbox

pytestmark = pytest.mark.anyio

SERVED = {"hypercorn": HTTPStream, "uvicorn": RequestResponseCycle}
ENOUGH_BYTES = 1 << 26


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["hypercorn", "uvicorn"])
def server(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def parsed(server: str) -> int:
    """Return the number of unanswered requests that the server holds in memory as more than bytes."""
    gc.collect()
    found = [one for one in gc.get_objects() if type(one) is SERVED[server]]
    return sum(not getattr(one, "response_complete", False) for one in found)  # uvicorn keeps the last one


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged about clients and connections."""
    others = ("nodekit.node",)
    return [f"{one.name}: {one.getMessage()}" for one in caplog.records if not one.name.startswith(others)]


async def flooded(connection: RawConnection, start: bytes, block: bytes) -> tuple[int, bytes]:
    """Send a block again and again until the node ends the connection. Return the number of bytes, and the reply."""
    sent, task = 0, asyncio.create_task(rest(connection))
    with suppress(ConnectionError):
        await connection.send(start)
        while not task.done() and sent < ENOUGH_BYTES:
            await connection.send(block)
            sent += len(block)
    return sent, await task


# -- pipelines ----------------------------------------------------------------------------------------


async def test_requests_sent_ahead_are_parsed_one_by_one_and_all_answered(server: str) -> None:
    async with serving(server) as api:
        id, number = await api.submit("gate"), 2_000
        async with api.raw() as connection:
            sent = [ask(f"/api/jobs?id={id}&wait=60")]
            sent += [ask("/health", f"X-Request-ID: {n}") for n in range(number)]
            sending = asyncio.create_task(connection.send(b"".join(sent)))
            await until(lambda: waiters(api) == 1)
            await anyio.wait_all_tasks_blocked()
            assert parsed(server) <= 4
            api.gate.opened.set()
            assert (await connection.answer()).status == 200
            for n in range(number):
                assert (await connection.answer()).headers["X-Request-Id"] == str(n)
                if n == number // 2:
                    assert parsed(server) <= 4
            await sending


async def test_bodies_in_a_pipeline_are_not_taken_for_requests(server: str) -> None:
    """Parts of what was read end at empty lines, which bodies may contain."""
    text = "\r\n\r\n".join(["GET /nope HTTP/1.1", "Host: 127.0.0.1", "\n\n\n", "0"]) * 20
    body = (
        b'{"containers": ["echo"],\r\n\r\n"data": {"text": "%s"}}'
        % text.replace("\r\n", r"\r\n").replace("\n", r"\n").encode()
    )
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    async with serving(server) as api, api.raw() as connection:
        one = post(body, "X-Request-ID: 1") + post(chunked, "Transfer-Encoding: chunked", "X-Request-ID: 2")
        await connection.send((one + ask("/info", "X-Request-ID: 3")) * 20)
        for _ in range(20):
            answers = [await connection.answer() for _ in range(3)]
            assert [answer.headers["X-Request-Id"] for answer in answers] == ["1", "2", "3"]
            assert [answer.status for answer in answers] == [200, 200, 200]


REFUSED = [
    (b"no request\r\n\r\n", b"400"),
    (post(b"zz\r\n", "Transfer-Encoding: chunked"), b"400"),
    (b"CONNECT / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"405"),
    (ask("/info", *["X: 1"] * 300), b"431"),
    (ask("/info").replace(b"1.1", b"3.1"), b""),
]


@pytest.mark.parametrize(("refused", "status"), REFUSED)
async def test_a_malformed_request_behind_others_is_refused_after_their_replies(
    server: str, refused: bytes, status: bytes
) -> None:
    async with serving(server) as api:
        id = await api.submit("gate")
        async with api.raw() as connection:
            first, second = ask(f"/api/jobs?id={id}&wait=60"), ask("/info", "X-Request-ID: second")
            await connection.send(first + second + refused + ask("/info"))
            await until(lambda: waiters(api) == 1)
            api.gate.opened.set()
            assert (await connection.answer()).status == 200
            assert (await connection.answer()).headers["X-Request-Id"] == "second"
            end = await rest(connection)
            assert end.startswith(b"HTTP/1.1 " + status)
            assert end.count(b"HTTP/1.1 ") == 1


# -- heads and framing without end --------------------------------------------------------------------

CHUNKS = post(b"1\r\n1\r\n", "Transfer-Encoding: chunked")
FLOODS = {
    "a method": (b"", b"G" * 4096),
    "a path": (b"GET /", b"a" * 4096),
    "empty lines": (b"", b"\r\n" * 4096),
    "one header": (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ", b"x" * 4096),
    "a header's name": (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n", b"x" * 4096),
    "headers": (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n", b"X: 1\r\n" * 512),
    "one trailer": (CHUNKS + b"0\r\nTrailer: ", b"x" * 4096),
    "trailers": (CHUNKS + b"0\r\n", b"Trailer: 1\r\n" * 512),
    "trailers of an early reply": (
        post(b"0\r\n", "Transfer-Encoding: chunked", path="/nope"),
        b"Trailer: 1\r\n" * 512,
    ),
    "one extension of a chunk": (CHUNKS + b"1;x=", b"x" * 4096),
    "extensions of a chunk": (CHUNKS + b"1", b";x=1" * 1024),
    "the length of a chunk": (CHUNKS, b"0" * 4096),
}


@pytest.mark.parametrize("flood", FLOODS)
async def test_what_has_no_end_is_not_read_for_long(server: str, flood: str) -> None:
    async with serving(server) as api, api.raw() as connection:
        sent, end = await flooded(connection, *FLOODS[flood])
        assert sent < ENOUGH_BYTES
        assert end[:12] in (b"HTTP/1.1 431", b"HTTP/1.1 400", b"HTTP/1.1 404", b"")  # a reset may overtake the reply
        assert (await api.get("/info")).status == 200


async def test_the_smallest_chunks_leave_turns_for_others(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counts, call_soon, done = [0], asyncio.get_running_loop().call_soon, False
    owner, name = (Inbox, "put") if server == "hypercorn" else (uvicorn_protocol.BoundedHttpTools, "on_body")
    take = getattr(owner, name)

    def counted(*arguments: Any) -> Any:
        counts[-1] += 1
        return take(*arguments)

    def next_turn() -> None:
        if not done:
            counts.append(0)
            call_soon(next_turn)

    monkeypatch.setattr(owner, name, counted)
    async with serving(server) as api, api.raw() as connection:
        call_soon(next_turn)
        await connection.send(post(b"1\r\n \r\n" * 20_000 + b"0\r\n\r\n", "Transfer-Encoding: chunked"))
        assert (await connection.answer()).status == 400
        done = True
    assert sum(counts) >= 20_000
    assert max(counts) <= uvicorn_protocol.READ_BYTES // 6 + 1


async def test_many_headers_are_431_and_as_many_as_proxies_add_are_not(server: str) -> None:
    async with serving(server) as api:
        for number, status in ((200, 200), (300, 431), (10_000, 431)):
            async with api.raw() as connection:
                await connection.send(ask("/info", *(f"X{n}: 1" for n in range(number))))
                assert (await connection.answer()).status == status, number


# -- clients that have gone ---------------------------------------------------------------------------


async def test_a_client_that_has_reset_is_not_served_any_more(
    server: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    served, info = 0, ROUTES["/info"]["GET"]

    async def counted(request: Any, node: Any) -> Any:
        nonlocal served
        served += 1
        return await info(request, node)

    monkeypatch.setitem(ROUTES["/info"], "GET", counted)  # type: ignore[arg-type]
    module = {"hypercorn": disconnects, "uvicorn": uvicorn_protocol}[server]
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    async with serving(server) as api:
        job, port = await api.node.submit(JobRequest.of("gate", data={}, client="127.0.0.1")), api.address[1]
        async with api.raw() as connection:
            await connection.send(ask(f"/api/jobs?id={job.id}&wait=60") + ask("/info") * 1000)
            await until(lambda: waiters(api) == 1)
            reset(connection)
            await until(lambda: waiters(api) == 0)
        await until(lambda: accepted(port) == 0)
    assert served == 0
    assert not lines(caplog)


async def test_who_waits_before_a_crowd_learns_that_its_client_has_gone(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that follow a body in chunks may be read together with its end."""
    module = {"hypercorn": disconnects, "uvicorn": uvicorn_protocol}[server]
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    job = b'{"containers":["gate"],"data":{}}'
    first = post(b"%x\r\n%s\r\n0\r\n\r\n" % (len(job), job), "Transfer-Encoding: chunked", "Prefer: wait=60")
    async with serving(server) as api:
        async with api.raw() as connection:
            await connection.send(first + ask("/info") * 9)
            await until(lambda: waiters(api) == 1)
            reset(connection)
            await until(lambda: waiters(api) == 0)


async def test_a_client_that_resets_amid_its_replies_leaves_no_line_in_the_log(
    server: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(server) as api:
        for read in (0, 100, 100_000):
            async with api.raw() as connection:
                task = asyncio.create_task(connection.send(ask("/openapi.json") * 500))
                await connection.reader.readexactly(read)
                reset(connection)
                with suppress(ConnectionError):
                    await task
            await until(lambda: parsed(server) == 0)
    assert not lines(caplog)


async def endless(data: Any) -> AsyncGenerator[bytes, None]:
    while True:
        yield b"*" * (1 << 20)


async def test_an_endless_stream_ends_with_its_reader(server: str, caplog: pytest.LogCaptureFixture) -> None:
    body = b'{"containers": ["endless"], "data": {}}'
    async with serving(server, runners=[functions(endless=endless)]) as api:
        async with api.raw() as connection:
            await connection.send(post(body, path="/api/jobs/stream"))
            await connection.reader.readexactly(5_000_000)
            reset(connection)
        await until(lambda: parsed(server) == 0)
        await until(lambda: api.node._executor.running == 0)
    assert not lines(caplog)


async def test_a_client_that_is_gone_before_it_is_accepted_is_nobody_on_a_unix_socket(server: str) -> None:
    """The system no longer knows the address of its connection, but what it sent can still be read."""
    request = post(b'{"containers":["echo"],"data":{}}')
    async with serving(server) as api:
        for _ in range(20):  # without a turn of the event loop, so that the node has not accepted them yet
            with socket.create_connection(api.address) as client:
                client.sendall(request)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert (await api.get("/info")).status == 200
        await until(lambda: parsed(server) == 0)
        assert await api.node.find(JobQuery(client="unix")) == []


MALFORMED = [
    b"\0\0\0\0\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost 127\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n folded: 1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET http:// HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET /%ff%00?%ff=%00 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"HEAD / HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
    b"HEAD /info HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
    b"GET /info HTTP/1.0\r\nConnection: close\r\n\r\nmore",
    post(b"zz\r\n", "Transfer-Encoding: chunked"),
    post(b"5\r\n12345no", "Transfer-Encoding: chunked"),
    post(b"1\r\n1\r\n", "Transfer-Encoding: chunked", "Content-Length: 1"),
    post(b"", "Transfer-Encoding: gzip"),
    post(b"", "Transfer-Encoding: chunked, chunked"),
    post(b"{", "Expect: 100-continue", "Content-Length: 9"),
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
]


@pytest.mark.parametrize("end", ["shut", "reset", "half"])
async def test_whatever_a_client_sends_is_no_line_in_the_log(
    server: str, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(server) as api:
        for sent in MALFORMED:
            for part in (sent, sent[: len(sent) // 2]):
                async with api.raw() as connection:
                    await connection.send(part)
                    await asyncio.sleep(0)
                    if end == "reset":
                        reset(connection)
                    elif end == "half":
                        connection.writer.write_eof()
                        await rest(connection)
        await until(lambda: parsed(server) == 0)
        assert (await api.get("/info")).status == 200
    gc.collect()
    assert not lines(caplog)


async def test_a_full_inbox_holds_nobody_up_once_its_client_has_gone() -> None:
    inbox, piece = Inbox(), {"type": "http.request", "body": b"x" * BODY_AHEAD_BYTES, "more_body": True}
    async with asyncio.timeout(60):
        await inbox.put(piece)  # type: ignore[arg-type]
        waiting = asyncio.create_task(inbox.put(piece))  # type: ignore[arg-type]
        await anyio.wait_all_tasks_blocked()
        assert not waiting.done()
        await inbox.put({"type": "http.disconnect"})
        await waiting
    assert len((await inbox.get())["body"]) == 2 * BODY_AHEAD_BYTES
    assert (await inbox.get())["type"] == "http.disconnect"


async def test_a_body_that_is_no_use_any_more_does_not_hold_its_connection(server: str) -> None:
    """The application has ended, and what it does not read must not be in the way of the end."""
    block = b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nodekit_asgi.http.messages.LINGER_SECONDS", 0.2)
        async with serving(server) as served, served.raw() as connection:
            start = post(b"", "Transfer-Encoding: chunked", path="/nope")
            _, end = await flooded(connection, start, block)
            assert end[:12] in (b"HTTP/1.1 404", b"")
            await until(lambda: parsed(server) == 0)
