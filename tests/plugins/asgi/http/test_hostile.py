"""Requests that are hostile to a server; hostile bodies are in `HttpTransportContract`."""

import asyncio
from contextlib import suppress

import msgspec
import pytest
from http_api import Api, both_servers, post

from nodekit_asgi import Limits

pytestmark = pytest.mark.anyio


def test_no_setting_allows_a_depth_that_exhausts_the_stack() -> None:
    assert msgspec.convert({"max_json_depth": 500}, Limits).max_json_depth == 500
    with pytest.raises(msgspec.ValidationError, match="<= 500"):
        msgspec.convert({"max_json_depth": 501}, Limits)


@both_servers
async def test_a_length_that_is_two_or_beyond_all_numbers_is_400(api: Api) -> None:
    for length in ("5, 5", "9" * 30):
        async with api.raw() as connection:
            await connection.send(post(b"12345", f"Content-Length: {length}"))
            assert (await connection.answer()).status == 400, length


@both_servers
async def test_what_follows_an_upgrade_that_is_not_made_is_no_request(api: Api) -> None:
    """Otherwise its body would be read as a request."""
    inner = b"GET /info HTTP/1.1\r\nhost: localhost\r\n\r\n"
    head = b"POST /api/jobs HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: h2c\r\n"
    last = b"GET /nope HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    answers = b""
    async with api.raw() as connection, asyncio.timeout(20):
        with suppress(ConnectionError):
            await connection.send(head + b"content-length: %d\r\n\r\n" % len(inner))
            await connection.send(inner)
            await connection.send(last)
            while piece := await connection.reader.read(1 << 16):
                answers += piece
    assert b"HTTP/1.1 400" in answers or b"HTTP/1.1 200" in answers, answers
    assert b'"pending"' not in answers
