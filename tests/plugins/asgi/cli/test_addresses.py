"""Addresses of nodes: what answers there, or does not, is said in one line with its cure."""

import asyncio
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.client import HTTPMessage
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from connections import listening
from http_api import Api, serving
from job_command import LONG_SECONDS, UNKNOWN, Answer, answering, behind, call, http

from nodekit_asgi.cli import client, listing
from nodekit_asgi.cli.address import parse_url
from nodekit_asgi.cli.client import NodeClient, Reply
from nodekit_asgi.cli.commands import watching
from nodekit_asgi.cli.problems import Dropped

pytestmark = pytest.mark.anyio


def test_a_next_page_is_found_relative_to_the_one_before() -> None:
    headers = HTTPMessage()
    headers["Link"] = '<https://docs>; rel="help", <?limit=2&after=x>; rel="next"'
    reply = Reply("http://node", 200, headers, b"[]")
    assert listing.next_page(reply, "/api/jobs?limit=2") == "/api/jobs?limit=2&after=x"


async def test_the_paths_of_a_node_are_below_that_of_its_url() -> None:
    lines: list[bytes] = []

    async def answer(request: bytes) -> bytes | None:
        lines.append(request.split(b"\r\n")[0])
        return http("[]")

    async with answering(answer) as (url, _):
        assert (await call(f"{url}/below/", "list")).code == 0
    assert lines == [b"GET /below/api/jobs?limit=21&order=newest HTTP/1.1"]


async def test_a_node_below_no_such_path_is_told_from_an_unknown_job(api: Api) -> None:
    for command in (("list",), ("get", UNKNOWN), ("show", UNKNOWN), ("submit", "echo"), ("follow", UNKNOWN)):
        done = await call(f"{api.url}/below", *command)
        assert (done.code, done.out, len(done.err.splitlines())) == (4, "", 1), command
        assert "with the path below which the node is mounted" in done.err


async def test_a_node_on_an_address_of_version_6_is_called() -> None:
    try:
        async with serving("hypercorn", bind="[::1]:0") as api:
            done = await call(api.url, "run", "echo", "--data", '{"a": 1}')
            assert (done.code, done.json) == (0, {"a": 1}), done.err
            assert "[::1]" in api.url
    except OSError:
        pytest.skip("this machine has no ::1")


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:4000",
        "http://::1:4000",
        "http://[::1",
        "http://no de:4000",
        "http://node:port",
        "http://node:0",
        "http://node:65536",
        "http://",
        "ftp://node",
        "http://node/?q",
        "http://me:secret@node",
        "unix:",
        f"http://{'x' * 64}.example",
        "http://node:4000#x",
    ],
)
async def test_what_is_no_url_of_a_node_is_said_with_what_is_expected(url: str) -> None:
    done = await call(url, "list")
    assert (done.code, done.out) == (2, "")
    expected = "a port from 1 to 65535" if url.endswith(":65536") else "http://HOST:PORT"
    assert f"expected {expected}" in done.err


async def test_a_url_without_a_port_is_said_with_the_port_that_it_means(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(connection: object) -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr("http.client.HTTPConnection.connect", refuse)
    done = await call("http://127.0.0.1", "list")
    assert (done.code, "no node listens at http://127.0.0.1 (port 80)" in done.err) == (4, True)
    assert "(port" not in (await call("http://127.0.0.1:4000", "list")).err


async def test_a_proxy_of_the_environment_is_said_not_to_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    done = await call("http://no-such-host.invalid:4000", "list")
    assert (done.code, "proxies of the environment are not used" in done.err) == (4, True)
    assert len(done.err.splitlines()) == 1


# -- sockets ------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_a_socket_that_the_user_may_not_use_is_said(tmp_path: Path) -> None:
    async with serving("hypercorn", bind=f"unix:{tmp_path}/s"):
        (tmp_path / "s").chmod(0o600)
        for folder in (tmp_path, *tmp_path.parents):
            if not folder.stat().st_mode & 0o001 and folder != Path("/"):
                folder.chmod(folder.stat().st_mode | 0o001)

        def run() -> "subprocess.CompletedProcess[str]":
            # another user may be unable to read the modules, so all that is needed is imported before
            code = (
                "import contextlib, io, os, sys; from nodekit.cli import main\n"
                "with contextlib.redirect_stdout(io.StringIO()): main(['job', 'get', '-h'], standalone_mode=False)\n"
                "os.setuid(65534); main(sys.argv[1:])"
            )
            command = [sys.executable, "-c", code, "job", "get", UNKNOWN, "--node", f"unix:{tmp_path}/s"]
            return subprocess.run(command, capture_output=True, text=True, timeout=LONG_SECONDS, check=False)

        done = await anyio.to_thread.run_sync(run)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (4, "", 1), done.stderr
    assert "this user may not write to the socket" in done.stderr


async def test_what_is_no_socket_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in ("none", "file", "file/below", "x" * 200):
        done = await call(f"unix:{tmp_path}/{path}", "list")
        assert (done.code, done.out, len(done.err.splitlines())) == (4, "", 1)
        assert "start one (nodekit serve FILE)" in done.err


# -- TLS ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a certificate of 127.0.0.1 that is its own authority, and with its key."""
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    names = ["-subj", "/CN=node", "-addext", "subjectAltName=IP:127.0.0.1"]
    key = ["-newkey", "rsa:2048", "-nodes", "-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    subprocess.run([openssl, "req", "-x509", "-days", "2", *key, *names], check=True, capture_output=True)
    (folder / "both").write_text((folder / "cert").read_text() + (folder / "key").read_text())
    return folder / "both"


@asynccontextmanager
async def secured(certificate: Path, answer: Answer) -> AsyncIterator[int]:
    """Answer requests over TLS on a free port, which it yields."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            reply = await answer(await reader.readuntil(b"\r\n\r\n"))
            writer.write(reply or b"")
            await writer.drain()
        except (OSError, EOFError):
            pass
        finally:
            writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def test_a_certificate_of_an_unknown_authority_is_said_with_the_cure(
    api: Api, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, _ = behind(api, lose=[])
    async with secured(certificate, answer) as port:
        done = await call(f"https://127.0.0.1:{port}", "list")
        assert (done.code, done.out, len(done.err.splitlines())) == (4, "", 1)
        assert "self-signed certificate; name a file with the certificate of its authority" in done.err
        assert "SSL_CERT_FILE" in done.err
        monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
        done = await call(f"https://127.0.0.1:{port}", "list")
        assert done.err.endswith(
            "SSL_CERT_FILE names /nowhere.pem, which is not there or may not be read by this user\n"
        )
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert (await call(f"https://127.0.0.1:{port}", "list", "--ids")).code == 0
        other = await call(f"https://localhost:{port}", "list")
        assert (other.code, "name the node by the host in its certificate" in other.err) == (4, True)


async def test_http_and_https_are_told_from_each_other(api: Api, certificate: Path) -> None:
    answer, _ = behind(api, lose=[])
    https = api.url.replace("http:", "https:")
    for command in (("list",), ("submit", "echo")):
        done = await call(https, *command)
        assert (done.code, done.out, len(done.err.splitlines())) == (4, "", 1)
        assert "does not speak TLS" in done.err
        assert f"is its URL {api.url}?" in done.err
    async with secured(certificate, answer) as port:
        done = await call(f"http://127.0.0.1:{port}", "list")
        assert (done.code, done.out, len(done.err.splitlines())) == (4, "", 1)


async def test_the_beginning_of_tls_is_known() -> None:
    async def answer(request: bytes) -> bytes | None:
        return b"\x15\x03\x03\x00\x02\x02\x46"

    async with answering(answer) as (url, _):
        done = await call(url, "list")
    assert (done.code, f"speaks TLS; is its URL {url.replace('http:', 'https:')}?" in done.err) == (4, True)


# -- slow networks ------------------------------------------------------------------------------------


async def test_the_time_to_wait_holds_for_an_answer_that_comes_in_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LAST_LOOK_SECONDS", 0.1)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(1000):
            writer.write(b" ")
            await writer.drain()
            await anyio.sleep(0.1)

    async with listening(serve) as server:
        host, port = server.sockets[0].getsockname()
        done = await call(f"http://{host}:{port}", "wait", UNKNOWN, "--timeout", "0.5")
    assert (done.code, done.out, len(done.err.splitlines())) == (5, "", 1)


async def test_a_large_body_may_take_longer_than_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.5)
    total = 4 << 20

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        left = total
        while left > 0:
            left -= len(await reader.read(1 << 18))
            await anyio.sleep(0.15)  # more than two seconds in all
        writer.write(http('{"id": "x"}'))
        await writer.drain()

    def send(url: str) -> Reply:
        with NodeClient(parse_url(url)) as node:
            return node.request("POST", "/api/jobs", body=b"x" * total, once=True)

    async with listening(serve) as server:
        host, port = server.sockets[0].getsockname()
        reply = await anyio.to_thread.run_sync(send, f"http://{host}:{port}")
    assert reply.body == b'{"id": "x"}'


async def test_a_short_body_is_noticed() -> None:
    async def answer(request: bytes) -> bytes | None:
        return b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n["x"]'

    def ask(url: str) -> None:
        with NodeClient(parse_url(url)) as node, pytest.raises(Dropped, match="broke off"):
            node.request("GET", "/api/jobs")

    async with answering(answer) as (url, _):
        await anyio.to_thread.run_sync(ask, url)
