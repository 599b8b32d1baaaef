"""A node that is served over real sockets, and clients of it and of an ASGI app."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import anyio
import msgspec
import pytest
from components import Gate, echo, make_node

from nodekit import Container, Node
from nodekit_asgi import AsgiConfig, AsgiTransport
from nodekit_function import FunctionRunner
from nodekit_guardian import Guardian, rules

both_servers = pytest.mark.parametrize("server", ["hypercorn", "uvicorn"])
"""Marks tests of behaviour that differs between servers: connections, and the bytes on them."""


class Answer(msgspec.Struct):
    """An answer of the node."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers["Content-Type"] == "application/json", self.headers
        return json.loads(self.body)

    @property
    def error(self) -> str:
        error = self.json["error"]
        assert isinstance(error, str)
        assert error
        return error


class Api:
    """A client of one served node."""

    def __init__(self, url: str, session: aiohttp.ClientSession, node: Node | None = None, gate: Gate | None = None):
        self.url = url
        self.session = session
        self.node: Any = node
        self.gate: Any = gate
        """The node, and the gate of its container `gate`, where they are in this process."""

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname
        assert parts.port
        return parts.hostname, parts.port

    async def call(self, method: str, path: str, **options: Any) -> Answer:
        async with self.session.request(method, self.url + path, allow_redirects=False, **options) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.call("GET", path, **options)

    async def post(self, path: str, body: Any, **options: Any) -> Answer:
        data = body if isinstance(body, (bytes, str)) else json.dumps(body)
        return await self.call("POST", path, data=data, **options)

    async def submit(self, *containers: str, **data: Any) -> str:
        answer = await self.post("/api/jobs", {"containers": containers or ["echo"], "data": data})
        assert answer.status == 200, answer.body
        id = answer.json["id"]
        assert isinstance(id, str)
        return id

    async def results(self, *ids: str, intermediate: bool = False, seconds: float = 60) -> list[Any]:
        """Return the results of jobs, once all are finished."""
        found: list[Any] = []
        with anyio.fail_after(seconds):
            for start in range(0, len(ids), 200):
                query = "&".join(f"id={id}" for id in ids[start : start + 200])
                query += "&intermediate=true" if intermediate else ""
                some = (await self.get(f"/api/jobs?{query}")).json
                while any(job["status"] == "running" for job in some):
                    await asyncio.sleep(0.01)
                    some = (await self.get(f"/api/jobs?{query}")).json
                found += some
        return found

    @asynccontextmanager
    async def as_other_client(self, address: str = "127.0.0.2") -> AsyncIterator["Api"]:
        """Return a client of the same node that calls from another address."""
        connector = aiohttp.TCPConnector(local_addr=(address, 0))
        async with aiohttp.ClientSession(connector=connector) as session:
            yield Api(self.url, session, self.node)

    @asynccontextmanager
    async def raw(self) -> AsyncIterator["RawConnection"]:
        """Open a bare connection."""
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            yield RawConnection(reader, writer)
        finally:
            writer.close()


class RawConnection:
    """A hand-written HTTP/1.1 connection: it can send what no well-behaved client would."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> Answer:
        async with asyncio.timeout(30):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            line, *lines = head.rstrip().split("\r\n")
            headers = {key.strip().title(): value.strip() for key, _, value in (text.partition(":") for text in lines)}
            if "Content-Length" in headers:
                body = await self.reader.readexactly(int(headers["Content-Length"]))
            else:
                body = await self.reader.read()
            return Answer(int(line.split()[1]), headers, body)


def post(body: bytes, *headers: str, path: str = "/api/jobs") -> bytes:
    """Return a POST as bytes; it has a Content-Length unless the headers name a framing."""
    lines = list(headers)
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in lines):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: 127.0.0.1", *lines, "", ""]).encode() + body


async def asgi_sent(app: Any, scope: dict[str, Any], *messages: dict[str, Any]) -> list[dict[str, Any]]:
    """Call an ASGI app with these messages of its server, and then the client's disconnect; return what it sends."""
    given, sent = iter(messages), list[dict[str, Any]]()

    async def receive() -> dict[str, Any]:
        return next(given, {"type": "http.disconnect"})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


async def asgi_call(app: Any, path: str, body: bytes = b"", **scope: Any) -> tuple[int, bytes]:
    """Send an ASGI app a request as a server would; return the status and the body of the reply."""
    base = {"type": "http", "http_version": "1.1", "path": path, "query_string": b"", "client": None, "headers": []}
    request = {"type": "http.request", "body": body, "more_body": False}
    start, *pieces = await asgi_sent(app, {**base, "method": "POST" if body else "GET", **scope}, request)
    return start["status"], b"".join(piece.get("body", b"") for piece in pieces)


def api_functions(gate: Gate) -> FunctionRunner:
    """Make a runner with containers of every kind that the guardian distinguishes."""

    async def fail(data: Any) -> Any:
        raise ValueError("on purpose")

    runner = FunctionRunner()
    runner.add(Container(id="echo", image="images/echo:1", description="an echo"), echo)
    runner.add(Container(id="fail"), fail)
    runner.add(Container(id="gate"), gate)
    runner.add(Container(id="inner", rules=rules(external=False)), echo)
    runner.add(Container(id="proof", rules=rules(generates_proofs=True)), echo)
    runner.add(Container(id="near", rules=rules(allowed_ips=("127.0.0.1/32", "::1"))), echo)
    runner.add(Container(id="far", rules=rules(allowed_ips=("10.0.0.0/8", "2001:db8::/32"))), echo)
    return runner


@asynccontextmanager
async def serving(
    server: str,
    *,
    runners: Any = None,
    plugins: Sequence[object] = (),
    node: dict[str, Any] | None = None,
    **config: Any,
) -> AsyncIterator[Api]:
    """Serve a node with the transport `asgi` on a free port; yield a client."""
    gate = Gate()
    settings = AsgiConfig(**{"bind": "127.0.0.1:0", "server": server, "stop_seconds": 1.0, **config})
    composed = make_node(
        *(runners or [api_functions(gate)]),
        transports=[AsgiTransport(config=settings)],
        **{"plugins": [Guardian(), *plugins], "drain_seconds": 0, **(node or {})},
    )
    async with composed, aiohttp.ClientSession() as session:
        yield Api(composed.urls[0], session, composed, gate)


def free_port() -> int:
    """Return a port that was free a moment ago, for services that must come back on the same one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
