"""Hostile bodies: 400 or 413 as JSON, and the node goes on as if nothing had been."""

import asyncio
import io
from contextlib import suppress
from urllib.parse import urlsplit

import msgspec
import pytest
from http_api import Answer, Api, post

from nodekit_asgi import Limits

pytestmark = pytest.mark.anyio

DEEP = 200_000
BODIES = {
    "empty": b"",
    "space": b" \n\t",
    "invalid UTF-8": b'{"containers":["echo"],"data":{"a":"\xff\xfe"}}',
    "invalid UTF-8 in a key that is ignored": b'{"containers":["echo"],"data":{},"\xc3\x28":1}',
    "a surrogate in UTF-8": b'{"containers":["echo"],"data":{"a":"\xed\xa0\x80"}}',
    "UTF-16": '{"containers":["echo"],"data":{}}'.encode("utf-16"),
    "NaN": b'{"containers":["echo"],"data":{"a":NaN}}',
    "Infinity": b'{"containers":["echo"],"data":{"a":-Infinity}}',
    "NaN in what is ignored": b'{"containers":["echo"],"data":{},"x":[NaN]}',
    "brackets": b"[" * DEEP,
    "brackets that close": b"[" * DEEP + b"]" * DEEP,
    "braces": b'{"a":' * DEEP,
    "brackets in data": b'{"containers":["echo"],"data":{"a":' + b"[" * DEEP + b"]" * DEEP + b"}}",
    "brackets in what is ignored": b'{"containers":["echo"],"data":{},"x":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "just too deep": b'{"containers":["echo"],"data":{"a":' + b"[" * 127 + b"]" * 127 + b"}}",
    "cut short": b'{"containers":["echo"],"data":{"a":1',
    "more behind": b'{"containers":["echo"],"data":{}} {}',
    "a trailing comma": b'{"containers":["echo"],"data":{},}',
    "single quotes": b"{'containers':['echo'],'data':{}}",
    "a control character": b'{"containers":["echo"],"data":{"a":"\x00"}}',
    "a bad escape": b'{"containers":["echo"],"data":{"a":"\\x"}}',
    "a leading zero": b'{"containers":["echo"],"data":{"a":01}}',
    "a comment": b'{"containers":["echo"],"data":{/* */}}',
    "a form": b"containers=echo&data=%7B%7D",
}


@pytest.mark.parametrize("path", ["/api/jobs", "/api/jobs/batch"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
async def test_a_hostile_body_is_400_as_json(api: Api, body: bytes, path: str) -> None:
    if path.endswith("batch") and body.startswith(b"{"):
        body = b'[{"containers":["echo"],"data":{}},' + body + b"]"
    answer = await api.post(path, body)
    assert answer.status == 400
    assert len(answer.error) < 300
    assert (await api.get("/api/jobs")).json == []
    assert (await api.get("/health")).status == 200


def test_no_setting_allows_a_depth_that_exhausts_the_stack() -> None:
    assert msgspec.convert({"max_json_depth": 500}, Limits).max_json_depth == 500
    with pytest.raises(msgspec.ValidationError, match="<= 500"):
        msgspec.convert({"max_json_depth": 501}, Limits)


async def test_depth_counts_brackets_and_not_texts(api: Api) -> None:
    text = b'{"containers":["echo"],"data":{"a":"' + b'[{\\"' * 10_000 + b'"}}'
    assert (await api.post("/api/jobs", text)).status == 200
    deep = b'{"containers":["echo"],"data":{"a":' + b"[" * 126 + b"]" * 126 + b"}}"
    answer = await api.post("/api/jobs", deep)
    assert answer.status == 200
    (job,) = await api.results(answer.json["id"])
    assert job["status"] == "success"
    assert b"[" * 126 in (await api.get(f"/api/jobs?id={job['id']}")).body


async def test_a_body_over_the_limit_is_413_whether_it_says_its_length_or_not(api: Api) -> None:
    most = 16 * 1024 * 1024
    fits = b'{"containers":["echo"],"data":{"a":"' + b"x" * (most - 40) + b'"}}'
    assert len(fits) <= most
    assert (await api.call("POST", "/api/jobs", data=io.BytesIO(fits))).status == 200
    answers: list[Answer] = []
    async with api.raw() as connection:  # it need not even be sent
        await connection.send(post(b"", f"Content-Length: {most + 1}"))
        answers.append(await connection.answer())
    async with api.raw() as connection:
        await connection.send(post(b"", "Transfer-Encoding: chunked"))
        for _ in range(17):
            await connection.send(b"100000\r\n" + b"x" * 0x100000 + b"\r\n")
        answers.append(await connection.answer())
    assert [answer.status for answer in answers] == [413, 413]
    assert all(answer.error for answer in answers)


@pytest.mark.parametrize("length", ["-1", "+5", "5, 5", "0x10", "five", "1_0", "9" * 30])
async def test_a_length_that_is_no_number_is_400(api: Api, length: str) -> None:
    async with api.raw() as connection:
        await connection.send(post(b"12345", f"Content-Length: {length}"))
        assert (await connection.answer()).status == 400


async def test_a_query_that_is_not_utf8_is_400(api: Api) -> None:
    async with api.raw() as connection:
        await connection.send(b"GET /api/jobs?id=%ff%fe HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await connection.answer()).status == 400


async def test_what_follows_an_upgrade_that_is_not_made_is_no_request(api: Api) -> None:
    """Its body would be taken for one."""
    inner = b"GET /info HTTP/1.1\r\nhost: localhost\r\n\r\n"
    head = b"POST /api/jobs HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: h2c\r\n"
    url = urlsplit(api.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(head + b"content-length: %d\r\n\r\n" % len(inner))
    await writer.drain()
    await asyncio.sleep(0.1)
    writer.write(inner)
    answers = b""
    with suppress(ConnectionError, asyncio.TimeoutError):
        while piece := await asyncio.wait_for(reader.read(1 << 16), 2):
            answers += piece
    writer.close()
    assert answers.count(b"HTTP/1.1 ") == 1
    assert b'"pending"' not in answers


@pytest.mark.parametrize("path", ["/health", "/nowhere"])
async def test_two_lengths_are_refused_on_every_path(api: Api, path: str) -> None:
    url = urlsplit(api.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    head = f"GET {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n"
    writer.write(head.encode() + b"0\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(1 << 16), 20)
    assert answer.startswith(b"HTTP/1.1 400")
    writer.close()
