"""Nodes behind nginx and Caddy, as the files of `deploy/` configure them: real programs, over TLS."""

import io
import json
import os
import re
import socket
import ssl
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from components import Gate, functions, until
from engine import debian
from engine.fixtures import or_unavailable
from http_api import Api, free_port, serving
from paths import ROOT
from yarl import URL

from nodekit import Mount, Node
from nodekit_asgi import AsgiConfig

pytestmark = pytest.mark.anyio

DEPLOY = ROOT / "deploy"
NAME = "node.example"
ADDRESS = "127.0.0.1:4000"
CERTIFICATE = "/etc/ssl/node.example/fullchain.pem"
KEY = "/etc/ssl/node.example/key.pem"

NGINX = """
{user}
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/proxy.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/bodies;
    proxy_temp_path {folder}/replies;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {site}
}}
"""
BELOW_A_PATH = """
server {{
    listen 127.0.0.1:{port} ssl;
    server_name node.example;
    ssl_certificate {folder}/certificate.pem;
    ssl_certificate_key {folder}/key.pem;
    {locations}
}}
"""
CADDY = """
{{
    admin off
    auto_https disable_redirects
}}
{site}
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def programs() -> None:
    with or_unavailable(debian.Missing):
        debian.need("nginx", "caddy", "openssl")


class Behind(Api):
    """A client of a node behind a proxy."""

    @asynccontextmanager
    async def from_address(self, address: str) -> AsyncIterator["Api"]:
        async with site_session(address) as session:
            yield Api(self.url, session, self.node)


class Everywhere(AbstractResolver):
    """The name of the site leads to this machine."""

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[ResolveResult]:
        return [ResolveResult(hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        pass


TRUSTED = ssl.create_default_context()


@asynccontextmanager
async def site_session(address: str = "127.0.0.1") -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(resolver=Everywhere(), local_addr=(address, 0), ssl=TRUSTED)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


@pytest.fixture(scope="session")
def certified(tmp_path_factory: pytest.TempPathFactory, programs: None) -> Path:
    """Return a folder with a certificate of the site, which this process trusts."""
    folder = tmp_path_factory.mktemp("site")
    names = ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
    made = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", "key.pem", "-out", "certificate.pem"]
    subprocess.run(["openssl", "req", "-x509", *made, *names], cwd=folder, check=True, capture_output=True)
    TRUSTED.load_verify_locations(folder / "certificate.pem")
    return folder


def substituted(name: str, *pairs: tuple[str, str]) -> str:
    """Return a file of `deploy/` with other addresses and paths; each of them must be in the file."""
    text = (DEPLOY / name).read_text(encoding="utf-8")
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


def nginx_site(folder: Path, port: int, node: str) -> str:
    return substituted(
        "nginx.conf",
        (ADDRESS, node),
        ("listen 443 ssl http2", f"listen 127.0.0.1:{port} ssl http2"),
        ("    listen [::]:443 ssl http2;\n", ""),
        ("listen 80", f"listen 127.0.0.1:{free_port()}"),
        ("    listen [::]:80;\n", ""),
        (CERTIFICATE, f"{folder}/certificate.pem"),
        (KEY, f"{folder}/key.pem"),
    )


def nginx(folder: Path, site: str) -> list[str]:
    file = folder / "main.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # others cannot write to the folder
    file.write_text(NGINX.format(user=user, folder=folder, site=site))
    return ["nginx", "-c", str(file), "-p", str(folder), "-e", f"{folder}/proxy.log"]


def nginx_command(folder: Path, port: int, node: str) -> list[str]:
    return nginx(folder, nginx_site(folder, port, node))


def nginx_path_command(folder: Path, port: int, node: str) -> list[str]:
    locations = substituted("nginx-below-a-path.conf", (ADDRESS, node))
    return nginx(folder, BELOW_A_PATH.format(folder=folder, port=port, locations=locations))


def caddy(folder: Path, port: int, node: str, *more: tuple[str, str]) -> list[str]:
    own = (f"# tls {CERTIFICATE} {KEY}", f"tls {folder}/certificate.pem {folder}/key.pem")
    site = substituted("Caddyfile", (f"reverse_proxy {ADDRESS}", f"reverse_proxy {node}"), own, *more)
    assert f"\n{NAME} {{\n" in site
    file = folder / "Caddyfile"
    file.write_text(CADDY.format(site=site.replace(f"\n{NAME} {{\n", f"\nhttps://{NAME}:{port} {{\n")))
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(file)]


def caddy_command(folder: Path, port: int, node: str) -> list[str]:
    return caddy(folder, port, node)


def caddy_path_command(folder: Path, port: int, node: str) -> list[str]:
    return caddy(folder, port, node, ("\thandle {\n", "\thandle_path /node/* {\n"), ("path /-/*", "path /node/-/*"))


PROXIES = {"nginx": nginx_command, "caddy": caddy_command}
BELOW = {"nginx": nginx_path_command, "caddy": caddy_path_command}


@contextmanager
def running(command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a proxy. It ends with the block."""
    environment = {
        **os.environ,
        "PATH": debian.PATH,
        "HOME": str(folder),
        "XDG_DATA_HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
    }
    with (folder / "proxy.out").open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def copied(certified: Path, folder: Path) -> None:
    for file in certified.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())


@asynccontextmanager
async def behind(
    proxy: Any, folder: Path, certified: Path, *, path: str = "", plugins: Any = ()
) -> AsyncIterator[Behind]:
    """Serve a node behind a proxy; yield a client of the proxy."""
    gate = Gate()

    async def pieces(data: Any) -> AsyncGenerator[bytes, None]:
        yield b"first"
        await gate.opened.wait()
        yield b"second"
        if data.get("fails"):
            raise ValueError("on purpose")

    settings = {"allowed_hosts": (NAME,), "trusted_proxies": ("127.0.0.1",)}
    runners = [functions(gate=gate, pieces=pieces)]
    copied(certified, folder)
    async with serving("hypercorn", runners=runners, plugins=plugins, **settings) as node_api:
        node = f"127.0.0.1:{node_api.address[1]}"
        with ExitStack() as stack:
            port, process = await started(stack, proxy, folder, node)
            if process.poll() is not None:  # another test took the port in between
                port, process = await started(stack, proxy, folder, node)
            assert process.poll() is None, (folder / "proxy.out").read_text()
            async with site_session() as session:
                yield Behind(f"https://{NAME}:{port}{path}", session, node_api.node, gate)


async def started(stack: ExitStack, proxy: Any, folder: Path, node: str) -> tuple[int, "subprocess.Popen[bytes]"]:
    """Start a proxy on a port of its own, and wait until it listens or has ended."""
    port = free_port()
    process = stack.enter_context(running(proxy(folder, port, node), folder))
    await until(lambda: process.poll() is not None or listens(port))
    return port, process


class Page:
    """A plugin with a page."""

    def nodekit_routes(self, node: Node) -> list[Mount]:
        async def page(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"for the machine"})

        return [Mount("page", page, public=True)]


each_proxy = pytest.mark.parametrize("proxy", PROXIES.values(), ids=PROXIES)


@each_proxy
async def test_a_stream_comes_piece_by_piece(proxy: Any, tmp_path: Path, certified: Path) -> None:
    async with behind(proxy, tmp_path, certified) as api, streamed(api) as response:
        assert await response.content.readexactly(5) == b"first"
        api.gate.opened.set()
        assert await response.content.read() == b"second"


@each_proxy
async def test_a_stream_that_breaks_off_does_not_look_complete(proxy: Any, tmp_path: Path, certified: Path) -> None:
    if proxy is caddy_command and caddy_version() < (2, 8):
        pytest.skip(f"Caddy {caddy_version()} ends a stream that broke as if it were complete; its file says so")
    async with behind(proxy, tmp_path, certified) as api, streamed(api, fails=True) as response:
        assert await response.content.readexactly(5) == b"first"
        api.gate.opened.set()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.read()


def caddy_version() -> tuple[int, int]:
    done = subprocess.run(["caddy", "version"], capture_output=True, text=True, check=True)
    major, minor = re.findall(r"\d+", done.stdout)[:2]
    return int(major), int(minor)


@asynccontextmanager
async def streamed(api: Api, *, fails: bool = False) -> AsyncIterator[aiohttp.ClientResponse]:
    """Request a stream and read its id. It is to be read within a minute."""
    body = {"containers": ["pieces"], "data": {"fails": fails}}
    async with api.session.post(f"{api.url}/api/jobs/stream", json=body) as response:
        assert response.status == 200
        with anyio.fail_after(60):
            await response.content.readline()
            yield response


@each_proxy
async def test_events_come_as_they_happen(proxy: Any, tmp_path: Path, certified: Path) -> None:
    async with behind(proxy, tmp_path, certified) as api:
        id = await api.submit("gate")
        async with api.session.get(f"{api.url}/api/jobs/{id}/events") as response:
            assert response.headers["Content-Type"].startswith("text/event-stream")
            with anyio.fail_after(60):
                while b"accepted" not in await response.content.readline():
                    pass
                api.gate.opened.set()
                assert b"finished" in await response.content.read()


@each_proxy
async def test_a_client_that_leaves_is_seen_and_its_stream_is_cancelled(
    proxy: Any, tmp_path: Path, certified: Path
) -> None:
    async with behind(proxy, tmp_path, certified) as api:
        body = {"containers": ["pieces"], "data": {}}
        async with api.session.post(f"{api.url}/api/jobs/stream", json=body) as response:
            id = (await response.content.readline()).decode().strip()
            response.close()
        with anyio.fail_after(60):
            [job] = await api.node.wait([id])
        assert job.status.value == "cancelled"


@each_proxy
async def test_the_client_is_who_connects_to_the_proxy_whatever_it_writes(
    proxy: Any, tmp_path: Path, certified: Path
) -> None:
    async with behind(proxy, tmp_path, certified) as api, api.from_address("127.0.0.3") as other:
        lies = {"X-Forwarded-For": "127.0.0.1", "Forwarded": "for=127.0.0.1", "X-Real-IP": "127.0.0.1"}
        id = await api.submit()
        stranger = await other.submit()
        for headers in ({}, lies):
            assert (await other.get("/api/jobs", headers=headers)).json == [stranger]
        assert (await api.get("/api/jobs")).json == [id]
        jobs = await api.node.fetch([id, stranger])
        assert [job.client for job in jobs] == ["127.0.0.1", "127.0.0.3"]


@each_proxy
async def test_bodies_have_the_limit_of_the_node_and_a_refusal_is_json(
    proxy: Any, tmp_path: Path, certified: Path
) -> None:
    async def in_chunks(body: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1 << 20):
            yield body[start : start + (1 << 20)]

    most = AsgiConfig().max_body_bytes
    async with behind(proxy, tmp_path, certified) as api:
        empty = len(json.dumps({"containers": ["none"], "data": {"x": ""}}))
        for size, status in ((most, 400), (most + 1, 413)):
            body = json.dumps({"containers": ["none"], "data": {"x": "x" * (size - empty)}}).encode()
            for data in (io.BytesIO(body), in_chunks(body)):
                answer = await api.call("POST", "/api/jobs", data=data)
                assert (answer.status, bool(answer.error)) == (status, True), size


@each_proxy
async def test_a_job_is_waited_for(proxy: Any, tmp_path: Path, certified: Path) -> None:
    async with behind(proxy, tmp_path, certified) as api:
        body = {"containers": ["gate"], "data": {}}

        async def wait() -> None:
            answer = await api.post("/api/jobs", body, headers={"Prefer": "wait=60"})
            assert (answer.status, answer.json["status"]) == (200, "success")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await until(lambda: api.gate.running)
            api.gate.opened.set()


@each_proxy
async def test_pages_of_plugins_are_for_the_machine_itself(proxy: Any, tmp_path: Path, certified: Path) -> None:
    async with behind(proxy, tmp_path, certified, plugins=[Page()]) as api, api.from_address("127.0.0.3") as other:
        assert (await api.get("/-/page/")).body == b"for the machine"
        answer = await other.get("/-/page/")
        assert (answer.status, bool(answer.error)) == (403, True)
        for path in ("/-/", "//-/page/", "/%2d/page/", "/x/../-/page/", "/x/..%2f-/page/", "/./-/page/", "/-//page/"):
            url = URL(api.url + path, encoded=True)
            async with other.session.get(url) as refused:
                assert refused.status in (403, 404), path


@each_proxy
async def test_a_page_of_the_site_may_call_the_node_and_no_other(proxy: Any, tmp_path: Path, certified: Path) -> None:
    async with behind(proxy, tmp_path, certified) as api:
        for origin, status in ((api.url, 200), ("https://elsewhere.example", 403)):
            assert (await api.get("/info", headers={"Origin": origin})).status == status


@each_proxy
async def test_a_node_that_is_gone_is_502_in_json(proxy: Any, tmp_path: Path, certified: Path) -> None:
    async with behind(
        lambda folder, port, _: proxy(folder, port, f"127.0.0.1:{free_port()}"), tmp_path, certified
    ) as api:
        answer = await api.get("/info")
        assert (answer.status, answer.error) == (502, "the node does not answer")
        assert answer.headers["Retry-After"] == "5"


async def test_below_a_path_nginx_answers_in_json_itself(tmp_path: Path, certified: Path) -> None:
    def without_a_node(folder: Path, port: int, _: str) -> list[str]:
        return nginx_path_command(folder, port, f"127.0.0.1:{free_port()}")

    async with behind(without_a_node, tmp_path, certified, path="/node") as api:
        gone = await api.get("/info")
        assert (gone.status, gone.error, gone.headers["Retry-After"]) == (502, "the node does not answer", "5")
        large = await api.call("POST", "/api/jobs", data=io.BytesIO(b" " * (AsgiConfig().max_body_bytes + 1)))
        assert (large.status, large.error) == (413, "the body is larger than 16 MiB")
        page = await api.get("/-/page/")
        assert (page.status, page.error) == (403, "pages of plugins are not served here")


@pytest.mark.parametrize("proxy", BELOW.values(), ids=BELOW)
async def test_a_node_works_below_a_path(proxy: Any, tmp_path: Path, certified: Path) -> None:
    async with behind(proxy, tmp_path, certified, path="/node", plugins=[Page()]) as api:
        ids = [await api.submit() for _ in range(2)]
        assert [job["status"] for job in await api.results(*ids)] == ["success"] * 2
        page = await api.get("/api/jobs?limit=1")
        link = re.fullmatch(r'<(.*)>; rel="next"', page.headers["Link"])
        assert link
        async with api.session.get(f"{api.url}/api/jobs") as first:
            async with api.session.get(first.url.join(first.url.build(query_string=link[1].lstrip("?")))) as following:
                assert following.url.path == "/node/api/jobs"
                assert page.json + await following.json() == ids
        assert (await api.get("/docs")).status == 200
        assert (await api.get("/openapi.json")).json["servers"][0]["url"] == "."
        async with api.from_address("127.0.0.3") as other:
            assert (await other.get("/-/page/")).status == 403


async def test_limits_and_times_of_the_proxies_agree_with_the_node() -> None:
    node = AsgiConfig()
    for name in ("nginx.conf", "nginx-below-a-path.conf"):
        text = (DEPLOY / name).read_text(encoding="utf-8")
        assert seconds(text, "proxy_read_timeout")[0] > node.max_wait_seconds
        assert re.findall(r"client_max_body_size (\w+);", text) == [f"{node.max_body_bytes >> 20}m"]
    text = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
    assert seconds(text, "client_header_timeout") == [node.header_timeout_seconds]
    assert seconds(text, "client_body_timeout") == [node.body_timeout_seconds]
    assert max(seconds(text, "keepalive_timeout")) < node.idle_timeout_seconds
    caddy = (DEPLOY / "Caddyfile").read_text(encoding="utf-8")
    assert max(seconds(caddy, "keepalive")) < node.idle_timeout_seconds


def seconds(text: str, name: str) -> list[float]:
    units = {"s": 1, "h": 3600}
    return [int(number) * units[unit] for number, unit in re.findall(rf"\b{name} (\d+)([sh])\b", text)]
