"""Requests that are hostile to a server; hostile bodies are in `HttpTransportContract`."""

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
