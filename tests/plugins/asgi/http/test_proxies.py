"""Clients behind proxies: a trusted proxy names the client; nobody else can."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from http_api import Api, serving
from multidict import CIMultiDict

from nodekit import Budget
from nodekit_asgi import AsgiConfig, Limits
from nodekit_asgi.http.client_address import sender_name
from nodekit_asgi.http.messages import HttpError, Request

pytestmark = pytest.mark.anyio

PROXIES = ("127.0.0.1", "10.0.0.0/8", "2001:db8::/32")


def request(peer: str | None, *lines: str, **limits: Any) -> Request:
    """Make a request of a peer with these lines of the header."""
    settings = Limits(**{"trusted_proxies": PROXIES, **limits})
    name = settings.forwarded_header.lower().encode()
    headers = [(name, line.encode("latin-1")) for line in lines]
    scope = {"method": "GET", "path": "/", "headers": headers, "client": None if peer is None else (peer, 1)}
    return Request(scope, receive, settings, Budget(1 << 30))


async def receive() -> dict[str, Any]:
    raise AssertionError("nobody reads")


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        ([], "10.0.0.1"),  # the proxy itself asks
        (["192.0.2.1"], "192.0.2.1"),
        (["203.0.113.9, 192.0.2.1"], "192.0.2.1"),  # the client may have written the entries before it
        (["nonsense, 192.0.2.1"], "192.0.2.1"),
        (["192.0.2.1, 10.1.2.3"], "192.0.2.1"),
        (["192.0.2.1,10.1.2.3,2001:db8::7"], "192.0.2.1"),
        (["203.0.113.9", "192.0.2.1", "10.1.2.3"], "192.0.2.1"),
        (["192.0.2.1, 10.1.2.3", "198.51.100.4"], "198.51.100.4"),
        (["10.0.0.7, 10.1.2.3"], "10.0.0.7"),  # from within
        (["192.0.2.1:4711"], "192.0.2.1"),
        (["2001:DB9:0::1"], "2001:db9::1"),
        (["[2001:db9::1]"], "2001:db9::1"),
        (["[2001:db9::1]:443"], "2001:db9::1"),
        (["::ffff:192.0.2.1"], "192.0.2.1"),
        (["[::ffff:c000:201]:80"], "192.0.2.1"),
        (["192.0.2.1, ::ffff:10.0.0.9"], "192.0.2.1"),
        ([" \t192.0.2.1\t ,, "], "192.0.2.1"),
        (["", "192.0.2.1"], "192.0.2.1"),
    ],
)
def test_the_client_is_the_last_address_that_is_no_trusted_proxys(lines: Sequence[str], client: str) -> None:
    assert sender_name(request("10.0.0.1", *lines)) == client
    assert sender_name(request("::ffff:10.0.0.1", *lines)) == client


@pytest.mark.parametrize("peer", ["192.0.2.9", "2001:db9::5", "127.0.0.2", None])
def test_who_is_no_trusted_proxy_speaks_for_itself(peer: str | None) -> None:
    for line in ("198.51.100.1", "10.0.0.1", "nonsense"):
        assert sender_name(request(peer, line)) == (peer or "unix")
    assert sender_name(request("10.0.0.1", "198.51.100.1", trusted_proxies=())) == "10.0.0.1"


@pytest.mark.parametrize(
    "line",
    [
        *("", " ", ",", "unknown", "_hidden", "unix:", "localhost", "192.0.2", "192.0.2.256", "192.0.2.1:", "1"),
        *("192.0.2.1:x", "192.0.2.1:123456", "[2001:db9::1", "2001:db9::1]", "2001:db9:::1", "fe80::1%eth0"),
        *("192.0.2.1 10.0.0.1", "192.0.2.1, x", "192.0.2.1, x, 10.0.0.9", "'192.0.2.1'", '"192.0.2.1"', "²"),
        *("1" * 10_000, ":" * 10_000, "for=192.0.2.1"),
    ],
)
def test_a_proxys_entry_that_is_no_address_is_refused_and_not_taken_for_the_proxy(line: str) -> None:
    with pytest.raises(HttpError) as raised:
        sender_name(request("10.0.0.1", line))
    assert raised.value.reply.status == 400
    assert "x-forwarded-for" in str(raised.value)


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        (["for=192.0.2.1"], "192.0.2.1"),
        (["For=192.0.2.1;proto=https;by=10.0.0.1"], "192.0.2.1"),
        (["proto=https; for=192.0.2.1 , for=10.0.0.9"], "192.0.2.1"),
        (['for="[2001:db9::1]:4711"'], "2001:db9::1"),
        (['for="192.0.2.1:4711", for="[2001:db8::1]"'], "192.0.2.1"),
        (['for="192.0.2.1:_port"'], "192.0.2.1"),
        (['for=203.0.113.1;host="a,b;for=1.2.3.4"', "for=192.0.2.1"], "192.0.2.1"),
        (["for=_hidden, for=192.0.2.1, for=10.0.0.9"], "192.0.2.1"),
    ],
)
def test_the_header_of_rfc_7239_is_understood(lines: Sequence[str], client: str) -> None:
    assert sender_name(request("10.0.0.1", *lines, forwarded_header="Forwarded")) == client


@pytest.mark.parametrize(
    "lines",
    [
        ['for=10.0.0.7;x="', "for=192.0.2.1"],
        ['for=10.0.0.7;x=", for=192.0.2.1'],
        ['for=10.0.0.7;x="', 'for="[2001:db9::1]"'],
        ['for=10.0.0.7;x="\\', 'for="192.0.2.1"'],
        ['for=203.0.113.6;x="', 'for=192.0.2.1;host="a\\"b"'],
    ],
)
def test_a_quote_that_a_client_has_left_open_does_not_swallow_what_the_proxy_adds(lines: Sequence[str]) -> None:
    with pytest.raises(HttpError):
        sender_name(request("10.0.0.1", *lines, forwarded_header="forwarded"))


@pytest.mark.parametrize(
    "line", ["for=unknown", "for=_hidden", "proto=https", "for=", "192.0.2.1", "for=192.0.2.1, by=x"]
)
def test_one_of_rfc_7239_that_hides_the_client_is_refused(line: str) -> None:
    with pytest.raises(HttpError):
        sender_name(request("10.0.0.1", line, forwarded_header="forwarded"))


def test_only_the_header_that_is_declared_counts() -> None:
    asked = request("10.0.0.1", "192.0.2.1", forwarded_header="X-Real-IP")
    assert sender_name(asked) == "192.0.2.1"
    other = request("10.0.0.1", "192.0.2.1")
    other.limits = Limits(trusted_proxies=PROXIES, forwarded_header="forwarded")
    assert sender_name(other) == "10.0.0.1"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"trusted_proxies": ["10.0.0.1/8"]}, "trusted_proxies: 10.0.0.1/8 has host bits set"),
        ({"trusted_proxies": ["proxy"]}, "trusted_proxies: 'proxy' does not appear"),
        ({"status_networks": ["unix"]}, "status_networks: 'unix' does not appear"),
        ({"status_networks": ["10.0.0.0/33"]}, "status_networks: '10.0.0.0/33' does not appear"),
        ({"forwarded_header": "x forwarded"}, "forwarded_header"),
        ({"forwarded_header": ""}, "forwarded_header"),
    ],
)
def test_settings_that_make_no_sense_keep_the_node_from_being_composed(settings: Any, text: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=re.escape(text)):
        msgspec.convert(settings, AsgiConfig)


# -- over sockets -------------------------------------------------------------------------------------


async def client_of(api: Api, *lines: str) -> Any:
    """Return the client's address as the node sees it: the refusal of a container contains it."""
    headers = CIMultiDict([("X-Forwarded-For", line) for line in lines])
    answer = await api.post("/api/jobs", {"containers": ["far"], "data": {}}, headers=headers)
    return answer.json["params"]["address"] if answer.status == 400 and "params" in answer.json else answer.status


async def test_behind_a_proxy_clients_are_told_apart_by_what_it_says(server: str) -> None:
    async with serving(server, trusted_proxies=("127.0.0.1",), status_networks=("192.0.2.0/24",)) as api:
        assert await client_of(api) == "127.0.0.1"
        assert await client_of(api, "203.0.113.1, 192.0.2.1") == "192.0.2.1"
        assert await client_of(api, "203.0.113.1", "[2001:db9::1]:80") == "2001:db9::1"
        assert await client_of(api, "10.1.1.1") == 200  # an allowed address
        one, other = {"X-Forwarded-For": "192.0.2.1"}, {"X-Forwarded-For": "192.0.2.2"}
        id = (await api.post("/api/jobs", {"containers": ["gate"], "data": {}}, headers=one)).json["id"]
        assert (await api.get(f"/api/jobs?id={id}", headers=one)).status == 200
        for stranger in (other, {}, {"X-Forwarded-For": "192.0.2.1, 192.0.2.2"}):
            assert (await api.get(f"/api/jobs?id={id}", headers=stranger)).status == 404
        report = json.dumps({"id": id, "status": "success", "containers": ["gate"]})
        assert (await api.call("PUT", "/api/status", data=report)).status == 403
        assert (await api.call("PUT", "/api/status", data=report, headers=other)).status == 200


async def test_who_is_no_trusted_proxy_cannot_say_who_it_is(server: str) -> None:
    async with serving(server, trusted_proxies=("127.0.0.1",)) as api, api.as_other_client("127.0.0.2") as other:
        assert await client_of(other, "10.1.1.1") == "127.0.0.2"
    async with serving(server) as api:
        assert await client_of(api, "10.1.1.1") == "127.0.0.1"


async def test_a_malformed_entry_is_400_whatever_is_asked(server: str) -> None:
    async with serving(server, trusted_proxies=("127.0.0.1",)) as api:
        headers = {"X-Forwarded-For": "unknown"}
        for path in ("/info", "/api/jobs"):
            answer = await api.get(path, headers=headers)
            assert (answer.status, answer.error.partition(":")[0]) == (400, "x-forwarded-for")
        batch = await api.post("/api/jobs/batch", [{"containers": ["echo"], "data": {}}], headers=headers)
        assert batch.status == 400


async def test_a_proxy_on_a_unix_socket_is_trusted_by_the_word(server: str, tmp_path: Path) -> None:
    for number, trusted in enumerate((("unix",), ("0.0.0.0/0", "::/0"))):
        path = tmp_path / f"api{number}.socket"
        async with serving(server, bind=f"unix:{path}", trusted_proxies=trusted, status_networks=("10.0.0.0/8",)) as up:
            async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
                api = Api("http://localhost", session, up.node, up.gate)
                assert await client_of(api, "192.0.2.1") == ("192.0.2.1" if trusted == ("unix",) else "")
                assert await client_of(api) == ""
                body, headers = '{"id":"x","status":"success","containers":["a"]}', {"X-Forwarded-For": "10.0.0.1"}
                answer = await api.call("PUT", "/api/status", data=body, headers=headers)
                assert answer.status == (404 if trusted == ("unix",) else 403)
