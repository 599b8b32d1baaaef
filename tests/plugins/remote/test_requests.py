"""Heads of requests: what is sent, and that nothing in it can begin another line."""

import pytest
from msgspec.structs import replace

from nodekit import ContainerFailed, Secret
from nodekit.testing import make_step
from nodekit_remote import ContainerHttp, Endpoint, HttpContainer, RemoteContainer
from nodekit_remote._requests import OriginKey, RequestHead, header_line

BROKEN = ["a\r\nX-Other: b", "a\nb", "a\rb", "a\0b", "a\x1bb", "a\x7f", "\r\n\r\nGET / HTTP/1.1"]


@pytest.mark.parametrize(
    ("url", "first", "host", "origin"),
    [
        ("http://h", "GET / HTTP/1.1", "h", OriginKey("http", "h", 80)),
        ("http://H:80/a/b", "GET /a/b HTTP/1.1", "h", OriginKey("http", "h", 80)),
        ("https://h:443", "GET / HTTP/1.1", "h", OriginKey("https", "h", 443)),
        ("https://h:80/?a=%20b", "GET /?a=%20b HTTP/1.1", "h:80", OriginKey("https", "h", 80)),
        ("http://[::1]:3000/x", "GET /x HTTP/1.1", "[::1]:3000", OriginKey("http", "::1", 3000)),
        ("http://[fe80::1%25eth0]/", "GET / HTTP/1.1", "[fe80::1]", OriginKey("http", "fe80::1%eth0", 80)),
        ("http://bücher.example/é b", "GET /%C3%A9%20b HTTP/1.1", "xn--bcher-kva.example", None),
        ("http://h/a\x01\x7f<>", "GET /a%01%7F%3C%3E HTTP/1.1", "h", None),
    ],
)
def test_a_url_becomes_a_request_line_and_a_host(url: str, first: str, host: str, origin: OriginKey | None) -> None:
    head = RequestHead("GET", url, {})
    assert head.start.decode().split("\r\n")[:2] == [first, f"Host: {host}"]
    assert origin is None or head.origin == origin


@pytest.mark.parametrize("url", ["http://", "http://:80", "http://a b/", "http://a\x00b"])
def test_a_url_without_a_name_of_a_host_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"host|URL|label|codec"):
        RequestHead("GET", url, {})


@pytest.mark.parametrize("value", BROKEN)
def test_no_value_begins_another_line(value: str) -> None:
    with pytest.raises(ValueError, match=r"^the value of the header 'X-A' has a line break") as raised:
        header_line("X-A", value)
    assert "X-Other" not in str(raised.value)
    with pytest.raises(ValueError, match="no name of a header"):
        header_line(value, "x")


@pytest.mark.parametrize("name", ["", "a b", "a:", "é", "(a)"])
def test_what_is_no_name_of_a_header_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no name of a header"):
        header_line(name, "x")


@pytest.mark.parametrize("name", ["Content-Length", "TRANSFER-ENCODING", "Host", "connection", "Expect", "Upgrade"])
def test_headers_that_are_about_the_connection_cannot_be_set(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be set"):
        RequestHead("POST", "http://h", {"A": "b"}).with_headers({name: "5"})


def test_values_may_have_tabs_and_any_letters() -> None:
    assert header_line("A", "b\tc é 中") == "A: b\tc é 中\r\n".encode()


def test_headers_that_are_added_replace_no_others_but_what_the_client_says_by_itself() -> None:
    head = RequestHead("POST", "http://h", {"Content-Type": "application/json"})
    more = head.with_headers({"content-type": "a/b", "accept": "c/d", "Traceparent": "00"})
    lines = more.start.decode().split("\r\n")
    assert {"Content-Type: application/json", "accept: c/d", "Traceparent: 00"} <= set(lines)
    assert not {"content-type: a/b", "Accept: application/json"} & set(lines)
    assert lines.count("Accept-Encoding: identity") == 1


@pytest.mark.parametrize("value", BROKEN)
def test_a_bearer_of_two_lines_is_refused_and_not_shown(value: str) -> None:
    with pytest.raises(ValueError, match=r"^bearer: expected a text without line breaks") as raised:
        RemoteContainer(id="a", url="http://h", bearer=Secret(value))
    assert "X-Other" not in f"{raised.value} {raised.value.__cause__}"


@pytest.mark.anyio
@pytest.mark.parametrize("headers", [{"X-A": "b\r\nX-Other: c"}, {"X A": "b"}, {"Content-Length": "1"}])
async def test_a_header_of_a_plugin_that_cannot_be_sent_is_no_fault_of_the_container(headers: dict[str, str]) -> None:
    endpoint = Endpoint("http://127.0.0.1:1", "one", HttpContainer(id="a"))
    async with ContainerHttp() as http:
        with pytest.raises(ContainerFailed, match=r"^nothing was sent to http://127\.0\.") as raised:
            await http.run(replace(make_step("a"), headers=headers), endpoint)
    assert raised.value.kind == "internal"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
