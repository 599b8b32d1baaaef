"""Replies that are not what was expected: each is named, and nothing in the name is for operators only."""

import gzip
import logging
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.tls import TLSListener

from nodekit import ContainerFailed, ContainerOutput
from nodekit.testing import make_step
from nodekit_remote import RemoteContainer, RemoteRunner
from nodekit_remote._replies import PAUSE_SECONDS, SHOWN_CHARACTERS, UnexpectedReplies, status_failure
from nodekit_remote._session import Reply

pytestmark = pytest.mark.anyio

PAGE = b"<!DOCTYPE html>\n<html><body>Traceback: /srv/secret.py, line 3</body></html>"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def reply(body: bytes, *, status: str = "200 OK", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """Yield the URL of a server that answers each request with these bytes, and ends the connection."""

    async def connected(stream: SocketStream) -> None:
        async with stream:
            received = b""
            while b"\r\n\r\n{" not in received or not received.endswith(b"}"):
                received += await stream.receive()
            if answer:
                await stream.send(answer)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, connected)
        yield f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        tasks.cancel_scope.cancel()


async def outcome(answer: bytes, **settings: Any) -> ContainerOutput | ContainerFailed:
    async with answering(answer) as url, RemoteRunner(RemoteContainer(id="echo", url=url, **settings)) as runner:
        with anyio.fail_after(60):
            try:
                return await runner.run(make_step("echo"))
            except ContainerFailed as failure:
                return failure


async def output(answer: bytes) -> ContainerOutput:
    found = await outcome(answer)
    assert isinstance(found, ContainerOutput), found
    return found


async def failed(answer: bytes, **settings: Any) -> ContainerFailed:
    found = await outcome(answer, **settings)
    assert isinstance(found, ContainerFailed), found
    return found


def shortened(value: Any) -> str:
    """Return the id of a parameter."""
    return repr(value)[-30:]


# -- what breaks off ------------------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def coded(coding: str, body: bytes) -> bytes:
    return HEAD + f"Content-Encoding: {coding}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (b"", "it was closed without a reply"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "it was closed in the middle of the reply's head"),
        (HEAD + b"Content-Length: 10\r\n\r\n[1", "the reply is shorter than its Content-Length, after 2 of 10 bytes"),
        (CHUNKED + b"2\r\n[1", "the reply ended in the middle of a chunk, after 2 bytes"),
        (CHUNKED + b"zz\r\n[1", "the reply is not valid HTTP: Invalid character in chunk size"),
        (HEAD + b"Content-Length: many\r\n\r\n", "the reply is not valid HTTP: Invalid character in Content-Length"),
        (
            HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n",
            "the reply is not valid HTTP: Duplicate Content-Length",
        ),
        (HEAD + b"Content-Length: 2\r\n\r\n{}\x1b[2J more", "the reply is not HTTP, or longer than its head says"),
        (b"SSH-2.0-OpenSSH\x1b[2J\r\n\r\n", "the reply is not HTTP, or longer than its head says"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "it speaks TLS, so that its URL begins with https"),
        (HEAD + b"X-A: " + b"a" * 10_000 + b"\r\n\r\n", "a line of the reply's head is longer than 8190 bytes"),
        (coded("gzip", gzip.compress(b"[1]")[:-4]), "the body of the reply is not gzip, as its Content-Encoding says"),
    ],
    ids=shortened,
)
async def test_a_reply_that_cannot_be_read_is_named(answer: bytes, cause: str) -> None:
    raised = await failed(answer)
    assert raised.kind == "connection"
    assert f"was dropped before the reply was complete ({cause}" in raised.text
    for word in ("Raw", "b'", "\\x", "install", "Error", "\x1b", "\n"):
        assert word not in raised.text


@pytest.mark.parametrize(
    ("coding", "said"),
    [
        ("gzip", "the body of the reply is not gzip, as its Content-Encoding says"),
        ("br", "the Content-Encoding of the reply, brotli, is not known here"),
        ("zstd", "the Content-Encoding of the reply, zstandard, is not known here"),
        ("gzip, lz4", "the Content-Encoding of the reply, lz4, is not known here"),
    ],
)
async def test_a_reply_in_another_coding_is_told_as_that_and_not_as_a_broken_connection(coding: str, said: str) -> None:
    cure = "let the container send it as it is, or in gzip or deflate"
    raised = await failed(coded(coding, b"abc"))
    assert (raised.kind, raised.text, raised.status) == ("not_json", f"{said}; {cure}", 200)
    raised = await failed(coded(coding, b"abc").replace(b"200 OK", b"502 Bad Gateway"))
    assert (raised.kind, raised.text) == ("status", f"{said}; {cure} (HTTP status 502)")


async def test_what_the_reply_was_like_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await failed(b"SSH-2.0-OpenSSH\r\n\r\n")
    assert "SSH-2.0-OpenSSH" in caplog.text


# -- redirects ------------------------------------------------------------------------------------


@pytest.mark.parametrize("http_errors", ["fail", "output"])
@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("https://elsewhere.example/service_output", "to https://elsewhere.example/service_output"),
        ("/login?next=\x9b\u202e", "to /login?next=\\x9b\\u202e"),
        ("/" + "x" * 5000, f"to /{'x' * (SHOWN_CHARACTERS - 1)}…"),
        (None, "without a Location"),
    ],
    ids=shortened,
)
async def test_a_redirect_says_where_it_leads_to(location: str | None, shown: str, http_errors: str) -> None:
    headers = {} if location is None else {"Location": location}
    raised = await failed(reply(b"moved", status="307 Temporary Redirect", **headers), http_errors=http_errors)
    assert (raised.kind, raised.status) == ("status", 307)
    assert raised.text == f"HTTP status 307, a redirect {shown}; redirects are not followed"


# -- what is no JSON ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (reply(b'{"a":[1,NaN]}'), "not JSON: NaN is no number in JSON (byte 8); use null"),
        (reply(b'"\\ud800"'), "not JSON: \\ud800 is half of a surrogate pair (byte 1)"),
        (reply(b'"abc\xff"'), "not UTF-8: invalid byte at position 4"),
        (reply(b"", status="204 No Content").replace(b"Content-Length: 0\r\n", b""), "empty (HTTP status 204)"),
        (reply(b" \n"), "empty"),
        (reply(gzip.compress(b"{}")), "not JSON: it is compressed with gzip, and has no Content-Encoding that says so"),
        (reply(b"hello", Content_Type="text/plain"), "not JSON: invalid character (byte 0) (content type text/plain)"),
        (
            reply(b"{}", Content_Type="a/b; charset=rot13"),
            "not JSON: its charset 'rot13' is not known here; send UTF-8",
        ),
        (reply(b"{}", Content_Type="a/b; charset=zip"), "not JSON: its charset 'zip' is not known here; send UTF-8"),
        (reply(b"{}", Content_Type='a/b; charset="\x1b[2J"'), "not JSON: its charset "),
        (reply(b"\xff\xfe{\x00}", Content_Type="a/b"), "not utf-16-le: invalid byte at position 4"),
        (reply(b'"\xff"', Content_Type="a/b; charset=shift_jis"), "not shift_jis: invalid byte at position 1"),
    ],
    ids=shortened,
)
async def test_a_reply_that_is_no_json_is_named(answer: bytes, text: str) -> None:
    raised = await failed(answer)
    assert raised.kind == "not_json"
    assert raised.text.startswith(f"the reply is {text}")
    assert raised.text.isprintable()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (reply(PAGE, Content_Type="text/html"), "the reply is not JSON: it is a page in HTML (content type text/html)"),
        (reply(PAGE), "the reply is not JSON: it is a page in HTML"),
        (reply(PAGE, status="500 No", Content_Type="text/html"), "HTTP status 500, with a page in HTML"),
        (reply(PAGE, Content_Type="application/json"), "the reply is not JSON: it is a page in HTML (content type app"),
        (reply(b"/srv/secret.py"), "the reply is not JSON: invalid character (byte 0)"),
    ],
    ids=shortened,
)
async def test_what_came_instead_of_json_is_for_operators_unless_clients_may_see_it(
    answer: bytes, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    raised = await failed(answer)
    assert raised.text.startswith(text)
    assert "secret" not in raised.text
    assert "container 'echo': an unexpected reply, HTTP status " in caplog.text
    assert "/srv/secret.py" in caplog.text
    shown = await failed(answer, output_in_errors=True)
    assert shown.text.startswith(text)
    assert "/srv/secret.py" in shown.text


def test_replies_that_are_unexpected_again_and_again_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    log = UnexpectedReplies(monotonic=lambda: now)
    one, other = (RemoteContainer(id=id, url="http://h") for id in ("one", "other"))
    for _ in range(1000):
        assert "page in HTML" in status_failure(Reply(500, PAGE), one, log).text
    status_failure(Reply(500, PAGE), other, log)
    assert len(caplog.messages) == 2
    now = PAUSE_SECONDS
    status_failure(Reply(500, PAGE), one, log)
    assert len(caplog.messages) == 3
    assert "(and 999 more before it)" in caplog.messages[-1]


# -- encodings ------------------------------------------------------------------------------------

TEXT = '{"a": "é€ü"}'


@pytest.mark.parametrize("declared", ["application/json", None, "application/json; charset=latin-1"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
async def test_a_byte_order_mark_says_the_encoding(encoding: str, declared: str | None) -> None:
    headers = {} if declared is None else {"Content-Type": declared}
    assert (await output(reply(TEXT.encode(encoding), **headers))).value == {"a": "é€ü"}


@pytest.mark.parametrize(
    ("charset", "encoding"),
    [
        ("windows-1252", "cp1252"),
        ("ISO-8859-15", "iso8859-15"),
        ("utf-16", "utf-16-be"),
        ("utf-16", "utf-16-le"),
        ("utf-16le", "utf-16-le"),
        ("utf-32", "utf-32-be"),
        ('"UTF-8"', "utf-8"),
        ("us-ascii", "utf-8"),
        ("utf-8", "utf-16-be"),
    ],
    ids=shortened,
)
async def test_a_declared_charset_is_understood(charset: str, encoding: str) -> None:
    text = TEXT.replace("ü", "") if encoding == "iso8859-15" else TEXT
    found = await output(reply(text.encode(encoding), Content_Type=f"application/json; x=y; charset={charset}"))
    assert found.value == {"a": "é€" if encoding == "iso8859-15" else "é€ü"}


async def test_digits_and_duplicate_keys_survive_another_encoding() -> None:
    answer = reply('{"a":1.50,"a":2}'.encode("utf-16"))
    assert bytes((await output(answer)).output) == b'{"a":1.50,"a":2}'


async def test_a_reply_that_is_too_large_in_utf8_is_too_large() -> None:
    body = ('"' + "é" * 60 + '"').encode("latin-1")
    raised = await failed(reply(body, Content_Type="a/b; charset=latin-1"), max_reply_bytes=100)
    assert (raised.kind, raised.text) == ("too_large", "the reply is larger than 100 bytes")


# -- TLS ------------------------------------------------------------------------------------------


async def test_a_certificate_that_is_not_valid_is_named(tmp_path: Path) -> None:
    key, cert = tmp_path / "key", tmp_path / "cert"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    try:
        subprocess.run([*made, "-keyout", key, "-out", cert], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl to make a certificate with")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)

    async def ignore(stream: Any) -> None:
        await stream.aclose()

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(TLSListener(listener, context).serve, ignore)
        async with RemoteRunner(RemoteContainer(id="one", url=f"https://localhost:{port}")) as runner:
            with pytest.raises(ContainerFailed) as caught:
                await runner.run(make_step("one"))
        tasks.cancel_scope.cancel()
    assert caught.value.kind == "connection"
    assert caught.value.text.startswith(
        f"cannot connect to https://localhost:{port}/service_output: its certificate is "
    )


async def test_https_to_a_server_without_tls_is_named() -> None:
    async def connected(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, connected)
        async with RemoteRunner(RemoteContainer(id="one", url=f"https://127.0.0.1:{port}")) as runner:
            with pytest.raises(ContainerFailed, match=r"cannot connect to https://.*: TLS failed: ") as caught:
                await runner.run(make_step("one"))
        tasks.cancel_scope.cancel()
    assert "_ssl.c" not in caught.value.text
