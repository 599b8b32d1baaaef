"""Requests and replies on nodekit's servers, of applications that do wrong, and of right ones that do seldom things."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from components import until
from connections import ask, rest
from http_api import RawConnection, both_servers, post

from nodekit_asgi import AsgiConfig
from nodekit_asgi.server.deadlines import Deadlines
from nodekit_asgi.server.listen import listen
from nodekit_asgi.server.servers import SERVERS

pytestmark = pytest.mark.anyio

Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Any, Any, Send], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]

GET = ask("/")
LAST = ask("/", "Connection: close")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def connected(server: str, app: App) -> AsyncIterator[RawConnection]:
    """Serve an application, and connect to it."""
    config = AsgiConfig(server=server)  # type: ignore[arg-type]
    listener, stop = listen("127.0.0.1:0"), anyio.Event()
    address = listener.getsockname()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(SERVERS[config.server], app, config, listener, stop, Deadlines(config))
        connection = RawConnection(*await asyncio.open_connection(*address))
        yield connection
        connection.writer.close()
        stop.set()


async def start(send: Send, headers: Headers = (), status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def body(send: Send, text: bytes, *, more: bool = False) -> None:
    await send({"type": "http.response.body", "body": text, "more_body": more})


def replying(headers: Headers, *pieces: bytes, status: int = 200) -> App:
    """Return an application that sends these headers and pieces."""

    async def app(scope: Any, receive: Any, send: Send) -> None:
        await start(send, headers, status)
        for piece in pieces[:-1]:
            await body(send, piece, more=True)
        await body(send, pieces[-1])

    return app


FIVE = [(b"content-length", b"5")]
WRONG: dict[str, App] = {
    "a header that would begin another": replying([*FIVE, (b"x-a", b"1\r\nx-b: 2")], b"hello"),
    "a header with a line feed": replying([*FIVE, (b"x-a", b"1\nx-b: 2")], b"hello"),
    "a name that is none": replying([*FIVE, (b"x a", b"1")], b"hello"),
    "a name with a colon": replying([*FIVE, (b":x-a", b"1")], b"hello"),
}
"""Applications whose replies must not be sent."""


@both_servers
@pytest.mark.parametrize("wrong", WRONG)
async def test_a_wrong_header_is_never_sent(server: str, wrong: str) -> None:
    async with connected(server, WRONG[wrong]) as connection:
        await connection.send(LAST)
        received = await rest(connection)
        assert b"x-b" not in received
        assert b"hello" not in received


@both_servers
async def test_a_body_longer_than_its_length_is_cut(server: str) -> None:
    async with connected(server, replying(FIVE, b"hello", b" and more")) as connection:
        await connection.send(GET)
        received = await rest(connection)
        assert received.endswith(b"\r\n\r\nhello")


@both_servers
async def test_a_body_shorter_than_its_length_ends_the_connection(server: str) -> None:
    async with connected(server, replying(FIVE, b"hell")) as connection:
        await connection.send(GET * 2)
        received = await rest(connection)
        assert received.endswith(b"\r\n\r\nhell") or received == b""
        assert received.count(b"HTTP/1.1 200") <= 1


@both_servers
async def test_an_application_that_ends_without_a_reply_is_a_500_or_the_end(server: str) -> None:
    async def app(scope: Any, receive: Any, send: Send) -> None:
        return None

    async with connected(server, app) as connection:
        await connection.send(GET)
        assert (await rest(connection)).startswith(b"HTTP/1.1 500 ")


@both_servers
async def test_a_message_after_the_end_of_a_reply_is_an_error_of_the_application(server: str) -> None:
    errors: list[str] = []

    async def app(scope: Any, receive: Any, send: Send) -> None:
        await start(send, FIVE)
        await body(send, b"hello")
        with pytest.raises(RuntimeError) as error:
            await body(send, b"again")
        errors.append(str(error.value))

    async with connected(server, app) as connection:
        for _ in range(2):
            await connection.send(GET)
            assert (await connection.answer()).body == b"hello"
        await until(lambda: len(errors) == 2)
    assert errors == ["unexpected ASGI message 'http.response.body' after a complete reply"] * 2


@both_servers
async def test_a_body_before_the_head_is_an_error_of_the_application(server: str) -> None:
    async def app(scope: Any, receive: Any, send: Send) -> None:
        with pytest.raises(RuntimeError, match="after no reply"):
            await body(send, b"early")
        await replying(FIVE, b"hello")(scope, receive, send)

    async with connected(server, app) as connection:
        await connection.send(GET)
        assert (await connection.answer()).body == b"hello"


@both_servers
async def test_a_reply_of_unknown_length_begins_before_its_first_piece(server: str) -> None:
    ready = anyio.Event()

    async def app(scope: Any, receive: Any, send: Send) -> None:
        await start(send)
        await ready.wait()
        await body(send, b"hello")

    async with connected(server, app) as connection:
        await connection.send(GET)
        async with asyncio.timeout(60):
            head = (await connection.reader.readuntil(b"\r\n\r\n")).lower()
        assert b"transfer-encoding: chunked" in head
        ready.set()
        assert await connection.reader.readexactly(15) == b"5\r\nhello\r\n0\r\n\r\n"


@both_servers
@pytest.mark.parametrize(("request_", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
async def test_replies_without_a_body_leave_the_connection_usable(server: str, request_: bytes, status: int) -> None:
    app = replying(FIVE if status == 200 else [], b"hello" if status == 200 else b"", status=status)
    async with connected(server, app) as connection:
        for _ in range(2):
            await connection.send(GET.replace(b"GET", request_))
            async with asyncio.timeout(60):
                head = await connection.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 %d" % status)
        connection.writer.write_eof()
        assert await rest(connection) == b""


@both_servers
async def test_a_reply_that_says_close_ends_the_connection(server: str) -> None:
    async with connected(server, replying([*FIVE, (b"Connection", b"Close")], b"hello")) as connection:
        await connection.send(GET)
        assert (await rest(connection)).endswith(b"hello")


@both_servers
async def test_each_reply_has_a_date_and_its_headers_as_they_are(server: str) -> None:
    headers = [*FIVE, (b"X-Twice", b"1"), (b"X-Twice", b"2"), (b"x-text", "é".encode("latin-1"))]
    async with connected(server, replying(headers, b"hello")) as connection:
        await connection.send(GET)
        async with asyncio.timeout(60):
            head = await connection.reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        assert [line for line in lines if line.startswith(b"x-")] == [b"x-twice: 1", b"x-twice: 2", b"x-text: \xe9"]
        assert sum(line.startswith(b"date: ") for line in lines) == 1
        assert sum(line.startswith(b"content-length: ") for line in lines) == 1


@both_servers
async def test_who_asks_to_be_told_is_told_of_a_client_that_goes(server: str) -> None:
    told: list[str] = []

    async def app(scope: Any, receive: Any, send: Send) -> None:
        gone = anyio.Event()
        assert scope["extensions"]["nodekit.arrived"]() == b"all of it"
        assert scope["extensions"]["nodekit.arrived"]() is None
        scope["extensions"]["nodekit.gone"](gone.set)
        told.append("waits")
        await gone.wait()
        told.append("gone")
        scope["extensions"]["nodekit.gone"](lambda: told.append("at once"))

    async with connected(server, app) as connection:
        await connection.send(post(b"all of it"))
        await until(lambda: told == ["waits"])
        connection.writer.close()
        await until(lambda: told == ["waits", "gone", "at once"])
