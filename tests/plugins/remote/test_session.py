"""The HTTP client on real sockets, on asyncio and on uvloop: flow in both directions, what is closed, and TLS."""

import asyncio
import contextlib
import gzip
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import pytest
from components import until

from nodekit import ContainerFailed
from nodekit_remote import _connector, _session
from nodekit_remote._connection import AHEAD_BYTES, BUFFER_BYTES
from nodekit_remote._requests import RequestHead
from nodekit_remote._session import Reply, Session

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\n"
PATIENCE_SECONDS = 60
LARGE = 12_000_000

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Behaviour: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


def reply(body: bytes) -> bytes:
    return OK + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


class Place:
    """A server that treats each connection as it is told."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self.connections = self.open = 0
        self.head = RequestHead("POST", "http://h", {})

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await self._behaviour(reader, writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        self.open -= 1


@asynccontextmanager
async def place(behaviour: Behaviour, tls: ssl.SSLContext | None = None) -> AsyncIterator[Place]:
    found = Place(behaviour)
    server = await asyncio.start_server(found.connected, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    found.head = RequestHead("POST", f"http{'s' if tls else ''}://localhost:{port}", {})
    try:
        yield found
    finally:
        server.close()
        with anyio.fail_after(PATIENCE_SECONDS):
            while found.open:
                await anyio.sleep(0.005)


@asynccontextmanager
async def session_for(behaviour: Behaviour) -> AsyncIterator[tuple[Session, Place]]:
    async with place(behaviour) as found, Session(connect_seconds=PATIENCE_SECONDS) as session:
        with anyio.fail_after(PATIENCE_SECONDS):
            yield session, found


async def request(reader: asyncio.StreamReader) -> bytes:
    """Read a request; return its body."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
    return await reader.readexactly(length)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(reply(await request(reader)))
        await writer.drain()


async def send(session: Session, found: Place, body: bytes = b"", most: int = 1 << 30) -> Reply:
    return await session.send(found.head, b"", body, max_bytes=most)


# -- what flows -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 1_000_000, LARGE])
async def test_bodies_of_any_size_pass_in_both_directions(size: int) -> None:
    body = bytes(range(251)) * (size // 251 + 1)
    async with session_for(echo) as (session, found):
        for _ in range(2):
            assert (await send(session, found, body[:size])).body == body[:size]
        assert found.connections == 1


async def test_a_reply_that_drips_is_the_same() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = await request(reader)
        text = b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Transfer-Encoding: chunked\r\n\r\n"
        for byte in text + b"%x\r\n%b\r\n0\r\nX: y\r\n\r\n" % (len(body), body):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    async with session_for(drip) as (session, found):
        assert (await send(session, found, b"hello")).body == b"hello"


async def test_a_container_that_reads_slowly_is_not_sent_more_than_it_takes() -> None:
    begin, sizes = anyio.Event(), []

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await begin.wait()
        writer.write(reply(await request(reader)))
        await writer.drain()

    async with session_for(slow) as (session, found), anyio.create_task_group() as tasks:

        async def call() -> None:
            sizes.append(len((await send(session, found, bytes(LARGE))).body))

        tasks.start_soon(call)
        await until(lambda: found.open)
        await anyio.wait_all_tasks_blocked()
        (connection,) = session._connector._origins[found.head.origin].open  # type: ignore[union-attr]
        assert connection._transport is not None
        assert connection._transport.get_write_buffer_size() < 1_000_000
        begin.set()
    assert sizes == [LARGE]


@pytest.mark.parametrize("interim", [b"", b"HTTP/1.1 100 Continue\r\n\r\n"])
@pytest.mark.parametrize("is_kept", [False, True])
async def test_a_container_may_answer_while_it_reads(interim: bytes, is_kept: bool) -> None:
    async def duplex(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = left = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            writer.write(interim)
            await asyncio.sleep(0.01)
            if not interim:
                writer.write(OK + b"Content-Length: %d\r\n\r\n" % length)
            came: list[bytes] = []
            while left:
                came.append(await reader.read(left))
                left -= len(came[-1])
                if not interim:
                    writer.write(came.pop())
                    await writer.drain()
            writer.write(reply(b"".join(came)) if interim else b"")

    async with session_for(duplex) as (session, found):
        if is_kept:
            await send(session, found, b"1")
        assert (await send(session, found, bytes(LARGE))).body == bytes(LARGE)
        assert found.connections == (2 if is_kept and not interim else 1)


@pytest.mark.parametrize("banner", [b"SSH-2.0-x\r\n", b"220 mail.example ESMTP\r\n"])
async def test_a_program_that_speaks_first_is_told_by_what_it_says(banner: bytes) -> None:
    async def speaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(banner)
        await reader.read()

    async with session_for(speaks) as (session, found):
        for _ in range(20):
            with pytest.raises(ContainerFailed, match="the reply is not HTTP"):
                await send(session, found)


async def test_a_stream_is_read_no_further_ahead_than_its_consumer() -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(OK + b"\r\n")
        while True:
            writer.write(bytes(100_000))
            await writer.drain()

    async with session_for(endless) as (session, found):
        async with session.stream(found.head, b"", b"") as pieces:
            came = 0
            async for piece in pieces:
                came += len(piece)
                await anyio.sleep(0)
                waiting = pieces._connection.reply.waiting_bytes
                assert waiting <= AHEAD_BYTES + BUFFER_BYTES
                if came > 10_000_000:
                    break
        await until(lambda: not found.open)


async def test_a_stream_that_was_read_to_its_end_leaves_its_connection_for_the_next() -> None:
    async with session_for(echo) as (session, found):
        for _ in range(3):
            async with session.stream(found.head, b"", b"abc") as pieces:
                assert b"".join([piece async for piece in pieces]) == b"abc"
        assert found.connections == 1


async def test_a_stream_gives_what_has_come_before_it_breaks() -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz")

    async with session_for(half) as (session, found):
        async with session.stream(found.head, b"", b"") as pieces:
            assert await anext(pieces) == b"half"
            with pytest.raises(ContainerFailed, match="Invalid character in chunk size"):
                await anext(pieces)


async def test_a_reply_that_unpacks_to_nothing_without_an_end_is_too_large() -> None:
    async def empty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(OK + b"Content-Encoding: gzip\r\n\r\n")
        while True:
            writer.write(gzip.compress(b"") * 1000)
            await writer.drain()

    async with session_for(empty) as (session, found):
        with pytest.raises(ContainerFailed, match="the reply is larger than 100000 bytes"):
            await send(session, found, most=100_000)


async def test_a_reply_in_many_small_chunks_is_kept_in_few_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    async def reserve(size: int) -> None:
        sizes.append(size)

    async def small(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"2\r\n{}\r\n" * 200_000 + b"0\r\n\r\n")
        await writer.drain()

    monkeypatch.setattr(_session, "reserve_output", reserve)
    async with session_for(small) as (session, found):
        assert len((await send(session, found)).body) == 400_000
    assert (sum(sizes), len(sizes) < 100) == (400_000, True)


# -- what is closed ---------------------------------------------------------------------------------------


async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request(reader)
    await reader.read()


async def begins(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request(reader)
    writer.write(OK + b"Content-Length: 10\r\n\r\nhalf")
    await reader.read()


async def reads_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    with contextlib.suppress(OSError):
        while True:  # a program that reads nothing notices the end when it writes
            writer.write(b"\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("behaviour", [never, begins, reads_nothing])
async def test_a_call_that_is_given_up_closes_its_connection(behaviour: Behaviour) -> None:
    async with session_for(behaviour) as (session, found):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send, session, found, bytes(LARGE if behaviour is reads_nothing else 1))
            await until(lambda: found.open)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        await until(lambda: not found.open)


async def test_a_session_that_ends_closes_what_is_idle_and_what_is_under_way() -> None:
    async def idle_or_never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await request(reader) != b"never":
            writer.write(reply(b"1"))
        writer.write(OK + b"\r\nthe end of the connection is the end of this")
        await reader.read()

    async with place(idle_or_never) as found, anyio.create_task_group() as tasks:
        async with Session(connect_seconds=PATIENCE_SECONDS) as session:

            async def fails() -> None:
                with pytest.raises(ContainerFailed, match="was dropped"):
                    await send(session, found, b"never")

            tasks.start_soon(fails)
            await until(lambda: found.open == 1)
            await send(session, found)
            assert found.open == 2
        with anyio.fail_after(PATIENCE_SECONDS):
            while found.open:
                await anyio.sleep(0.005)


async def test_connections_that_are_idle_are_closed_and_their_place_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_connector, "KEEP_ALIVE_SECONDS", 0.01)
    async with session_for(echo) as (session, found):
        await send(session, found)
        connector = session._connector
        assert connector is not None
        await until(lambda: not found.open and not connector._origins and connector._sweeper is None)
        assert (await send(session, found, b"1")).body == b"1"


async def test_after_a_reply_that_cannot_be_read_what_follows_says_nothing_about_the_container() -> None:
    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await request(reader) == b"good":
            writer.write(reply(b"1"))
            await request(reader)
            writer.write(reply(b"2"))
            await reader.read()
        for _ in range(100):
            writer.write(bytes(100_000))
            await writer.drain()

    async with session_for(garbage) as (session, found):
        with pytest.raises(ContainerFailed, match="not HTTP"):
            await send(session, found)
        assert [(await send(session, found, b"good")).body for _ in range(2)] == [b"1", b"2"]
        assert found.connections == 2


# -- what a call costs --------------------------------------------------------------------------------------


async def test_a_call_on_a_kept_connection_makes_no_task_and_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_connector, "KEEP_ALIVE_SECONDS", 3600.0)
    async with session_for(echo) as (session, found):
        await send(session, found, b"1")
        counts, tasks = Counts(), asyncio.all_tasks()
        with monkeypatch.context() as patched, counts:
            patched.setattr(asyncio.base_events.BaseEventLoop, "call_at", counts.refuse)
            for _ in range(50):
                await send(session, found, b"1")
        assert asyncio.all_tasks() == tasks
        assert found.connections == 1
        assert counts.calls / 50 < 60


class Counts:
    """The number of calls of functions of `nodekit_remote`, which no other work disturbs."""

    def __init__(self) -> None:
        self.calls = 0

    def __enter__(self) -> None:
        sys.setprofile(self._count)

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _count(self, frame: Any, event: str, argument: Any) -> None:
        if event == "call" and "nodekit_remote" in frame.f_code.co_filename:
            self.calls += 1

    def refuse(self, *arguments: Any, **named: Any) -> None:
        pytest.fail("a call made a timer")


# -- TLS ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key", folder / "cert"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    try:
        more = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)]
        subprocess.run([*made, *more], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl to make a certificate with")
    return key, cert


async def test_https_verifies_the_certificate_and_its_name(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    key, cert = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    body = b"x" * 1_000_000
    async with place(echo, context) as found, Session(connect_seconds=PATIENCE_SECONDS) as session:
        with anyio.fail_after(PATIENCE_SECONDS):
            for _ in range(3):
                assert (await send(session, found, body)).body == body
            assert found.connections == 1
            elsewhere = RequestHead("POST", found.head.url.replace("localhost", "127.0.0.1"), {})
            with pytest.raises(ContainerFailed, match=r"cannot connect to .*: its certificate is not valid: IP"):
                await session.send(elsewhere, max_bytes=10)
