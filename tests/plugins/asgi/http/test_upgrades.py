"""Offers to leave HTTP/1.1 are ignored: the request is answered, and what follows it is read as HTTP/1.1."""

import asyncio
import itertools
import json

import pytest
from connections import ask, rest
from http_api import Answer, Api, RawConnection, both_servers, post

pytestmark = pytest.mark.anyio

H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA")
OFFERS = {
    "h2c": H2C,
    "h2c in capitals": ("CONNECTION: UPGRADE", "UPGRADE: H2C"),
    "h2c without settings": ("Connection: upgrade", "Upgrade: h2c"),
    "several": ("Connection: keep-alive, Upgrade", "Upgrade: TLS/1.0, h2c", "Upgrade: websocket"),
    "websocket": (
        *("Connection: keep-alive, Upgrade", "Upgrade: websocket"),
        *("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"),
    ),
    "without connection": ("Upgrade: h2c",),
    "something else": ("Connection: Upgrade", "Upgrade: x/1"),
}
offers = pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
INNER = ask("/info", "X-Request-ID: smuggled")
JOB = json.dumps({"containers": ["echo"], "data": {"text": INNER.decode()}}).encode()


async def answers(connection: RawConnection, *ids: str) -> list[Answer]:
    """Return as many answers, which must be those to these requests."""
    found = [await connection.answer() for _ in ids]
    assert [answer.headers["X-Request-Id"] for answer in found] == [*ids]
    return found


@both_servers
@offers
async def test_a_request_that_offers_an_upgrade_is_answered_and_the_connection_goes_on(
    api: Api, offer: tuple[str, ...]
) -> None:
    async with api.raw() as connection:
        for number in ("1", "2"):
            await connection.send(ask("/info", f"X-Request-ID: {number}", *offer))
            (answer,) = await answers(connection, number)
            assert (answer.status, answer.json["version"]) == (200, "0.1.0")
        await connection.send(ask("/info", "X-Request-ID: 3"))
        await answers(connection, "3")


@both_servers
@offers
async def test_the_body_of_such_a_request_is_its_body_and_what_follows_are_requests(
    api: Api, offer: tuple[str, ...]
) -> None:
    chunks = b"%x\r\n%s\r\n%x;ext=1\r\n%s\r\n0\r\nTrailer: 1\r\n\r\n" % (9, JOB[:9], len(JOB) - 9, JOB[9:])
    bodies = [(JOB, f"Content-Length: {len(JOB)}"), (chunks, "Transfer-Encoding: chunked")]
    ids: list[str] = []
    for (body, framing), size in itertools.product(bodies, (1, 7, 1 << 16)):
        sent = post(body, framing, "X-Request-ID: 1", *offer)
        sent += ask("/info", "X-Request-ID: 2", *offer) + post(body, framing, "X-Request-ID: 3", *offer)
        sent += ask("/nope", "X-Request-ID: 4", "Connection: close")
        async with api.raw() as connection:
            for start in range(0, len(sent), size):
                await connection.send(sent[start : start + size])
                await asyncio.sleep(0)
            first, info, second, last = await answers(connection, "1", "2", "3", "4")
            assert (info.status, last.status) == (200, 404)
            assert await rest(connection) == b""
        ids += [first.json["id"], second.json["id"]]
    for job in await api.results(*ids):
        assert job["result"]["output"] == {"text": INNER.decode()}


@both_servers
async def test_the_body_of_an_offer_is_expected_where_the_client_waits_to_be_asked_for_it(api: Api) -> None:
    async with api.raw() as connection:
        await connection.send(post(b"", f"Content-Length: {len(JOB)}", "Expect: 100-continue", *H2C))
        async with asyncio.timeout(60):
            assert b" 100 " in await connection.reader.readuntil(b"\r\n\r\n")
        await connection.send(JOB)
        assert (await connection.answer()).status == 200


@both_servers
@offers
async def test_after_an_offer_nobody_speaks_another_protocol(api: Api, offer: tuple[str, ...]) -> None:
    async with api.raw() as connection:
        await connection.send(ask("/info", *offer) + PREFACE)
        assert (await connection.answer()).status == 200
        end = await rest(connection)
    assert end.startswith((b"HTTP/1.1 505 ", b"HTTP/1.1 400 "))
    assert end.count(b"HTTP/1.1 ") == 1


@both_servers
async def test_connect_is_refused_and_what_follows_is_no_request(api: Api) -> None:
    for target in ("127.0.0.1:80", "/info", "/-/shown/"):
        async with api.raw() as connection:
            await connection.send(f"CONNECT {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode() + INNER)
            answer = await connection.answer()
            assert (answer.status, answer.error) == (405, "CONNECT: this is no proxy")
            assert await rest(connection) == b""


@both_servers
@pytest.mark.parametrize("version", ["HTTP/0.9", "HTTP/2.0", "HTTP/1.2", "HTTP/3.0", "HTTP/9.9"])
async def test_another_version_is_refused(api: Api, version: str) -> None:
    async with api.raw() as connection:
        await connection.send(f"GET /info {version}\r\nHost: 127.0.0.1\r\n\r\n".encode() + INNER)
        end = await rest(connection)
    assert end.startswith((b"HTTP/1.1 505 ", b"HTTP/1.1 400 "))
    assert end.count(b"HTTP/1.1 ") == 1


@both_servers
async def test_http_2_is_spoken_only_where_the_file_says_so(api: Api) -> None:
    async with api.raw() as connection:
        await connection.send(PREFACE)
        end = await rest(connection)
    assert end.startswith(b"HTTP/1.1 505 ")
    assert b"http2 = true" in end
