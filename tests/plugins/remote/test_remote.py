"""The runner `remote` against a real server on loopback: outputs, and the kind and text of each failure."""

import gzip
import json
import logging
import re
import resource
import socket
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import anyio
import msgspec
import pytest
from anyio.abc import SocketAttribute, SocketStream
from components import until
from msgspec.structs import replace

from nodekit import CompositionError, ContainerFailed, ContainerOutput, JobRequest, Secret, Step, StepCall
from nodekit.testing import StreamingRunnerContract, make_node, make_step
from nodekit_remote import RemoteContainer, RemoteRunner, restart_pause
from nodekit_remote._started import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, STEADY_SECONDS

pytestmark = pytest.mark.anyio

HOSTILE, ESCAPED = "\x1b[2J\x9b\u202e\u2028\r\ntwo", "\\x1b[2J\\x9b\\u202e\\u2028\\r\ntwo"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def data(self) -> bytes:
        """Return the bytes of `data` in a container's input."""

        class Input(msgspec.Struct):
            data: msgspec.Raw

        return bytes(msgspec.json.decode(self.body, type=Input).data)


def reply(body: bytes, *, status: str = "200 OK", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


@dataclass
class Server:
    """A server that answers ``/<name>/service_output`` with the bytes that `answers[name]` gives."""

    answers: dict[str, Callable[[Request], Awaitable[bytes]]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    open: int = 0
    port: int = 0

    def says(self, name: str, *answers: bytes) -> None:
        """Answer with these one after the other, then always with the last one."""
        queue = list(answers)

        async def answer(request: Request) -> bytes:
            return queue.pop(0) if len(queue) > 1 else queue[0]

        self.answers[name] = answer

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{name}"

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator["Server"]:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port, reuse_port=True)
        self.port = listener.extra(SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, self._connected)
            yield self
            tasks.cancel_scope.cancel()

    async def _connected(self, stream: SocketStream) -> None:
        self.open += 1
        try:
            async with stream:
                while True:
                    request = await _receive(stream)
                    if request.path == "/slow/service_output":
                        await stream.receive()  # until the caller hangs up
                    if request.path == "/endless/service_output":
                        await self._go_on(stream)
                    if request.path == "/broken/service_output":
                        await stream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
                        return
                    await stream.send(await self._answer(request))
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            pass
        finally:
            self.open -= 1

    async def _go_on(self, stream: SocketStream) -> None:
        """Send until the caller hangs up."""
        await stream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await stream.send(b"2710\r\n" + b"x" * 10_000 + b"\r\n")

    async def _answer(self, request: Request) -> bytes:
        self.requests.append(request)
        _, name, path = request.path.split("/", 2)
        if path != "health":
            return await self.answers[name](request)
        return await self.answers["health"](request) if "health" in self.answers else reply(b"{}")


async def _receive(stream: SocketStream) -> Request:
    received = b""
    while b"\r\n\r\n" not in received:
        received += await stream.receive()
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += await stream.receive()
    method, path, _ = first.split()
    return Request(method, path, headers, body)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()

    async def echo(request: Request) -> bytes:
        return reply(request.data)

    server.answers |= {"echo": echo}
    server.says("fail", reply(b'{"error": "no"}', status="500 Internal Server Error"))
    async with server.serving():
        yield server


def runner_for(server: Server, *names: str, **settings: Any) -> RemoteRunner:
    containers = [RemoteContainer(id=name, url=server.url(name), **settings) for name in names]
    return RemoteRunner(*containers, connect_timeout_seconds=1.0)


async def run(server: Server, name: str, data: Any = None, **settings: Any) -> ContainerOutput:
    async with runner_for(server, name, **settings) as runner:
        with anyio.fail_after(60):
            return await runner.run(make_step(name, data))


async def failure(server: Server, name: str, **settings: Any) -> ContainerFailed:
    with pytest.raises(ContainerFailed) as raised:
        await run(server, name, **settings)
    assert str(raised.value) == raised.value.text
    return raised.value


class TestRemoteRunner(StreamingRunnerContract):
    @pytest.fixture
    def runner(self, server: Server) -> RemoteRunner:
        return runner_for(server, "echo", "fail", "slow", "endless", "broken")


@pytest.mark.parametrize("url", ["http://h:99999", "http://h:-1/", "http://h:port", "http://["])
def test_a_url_that_nothing_can_be_called_at_is_named(url: str) -> None:
    with pytest.raises(ValueError, match=r"^url: .*" + re.escape(url)):
        RemoteContainer(id="a", url=url)


def test_two_containers_of_one_id_are_refused() -> None:
    containers = tuple(RemoteContainer(id=id, url=f"http://{id}") for id in ("a", "b", "a"))
    with pytest.raises(CompositionError, match=r"^containers\[2\]\.id: 'a' is the id of another container"):
        RemoteRunner(*containers)


# -- what is sent --------------------------------------------------------------------------------


async def test_a_call_is_a_post_of_the_container_protocol(server: Server) -> None:
    step = make_step("echo", {"a": 1}, index=2, attempt=3)
    async with runner_for(server, "echo") as runner:
        output = await runner.run(step)
    [request] = server.requests
    assert (request.method, request.path) == ("POST", "/echo/service_output")
    assert json.loads(request.body) == {"source": 1, "destination": 1, "data": {"a": 1}, "requires_proof": False}
    assert request.headers["content-type"] == "application/json"
    assert request.headers["idempotency-key"] == f"{step.job_id}:2"
    assert request.headers["accept-encoding"] == "identity"
    assert "authorization" not in request.headers
    assert "cookie" not in request.headers
    assert output.instance == server.url("echo")


async def test_headers_that_a_plugin_adds_to_a_step_are_sent_along(server: Server) -> None:
    class Traces:
        async def nodekit_step(self, step: Step, call: StepCall) -> ContainerOutput:
            return await call(replace(step, headers={"Traceparent": f"00-{step.attempt}"}))

    async with make_node(runners=[runner_for(server, "echo")], plugins=[Traces()]) as node:
        job = await node.submit(JobRequest.of("echo", data={}))
        await node.wait([job.id])
    [request] = [one for one in server.requests if one.method == "POST"]
    assert request.headers["traceparent"] == "00-1"
    assert request.headers["content-type"] == "application/json"


async def test_a_bearer_is_sent_and_never_shown(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server.says("fail", reply(b"no", status="401 Unauthorized"))
    async with runner_for(server, "fail", bearer=Secret("open sesame")) as runner:
        with pytest.raises(ContainerFailed) as raised:
            await runner.run(make_step("fail"))
    assert server.requests[0].headers["authorization"] == "Bearer open sesame"
    assert "sesame" not in f"{raised.value!r} {runner.containers!r} {vars(runner)} {caplog.text}"


async def test_neither_cookies_nor_proxies_come_into_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    server.says("echo", reply(b"1", Set_Cookie="a=b"))
    container = RemoteContainer(id="echo", url=f"http://localhost:{server.port}/echo")  # an address gets no cookies
    async with RemoteRunner(container) as runner:
        for _ in range(2):
            await runner.run(make_step("echo"))
    assert all("cookie" not in request.headers for request in server.requests)


async def test_connections_are_used_again_and_closed_at_the_end(server: Server) -> None:
    async with runner_for(server, "echo") as runner:
        for _ in range(5):
            await runner.run(make_step("echo"))
        assert server.open == 1
    await until(lambda: not server.open)


def test_the_limit_of_connections_is_told_to_the_node() -> None:
    assert RemoteRunner(connections=3).concurrency == 3
    assert RemoteRunner().concurrency is None


# -- outputs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"null", b'"text"', b"[1]", b' {"a": 1.0, "a":2}', b"0", '"é"'.encode()])
async def test_any_json_value_is_an_output(server: Server, body: bytes) -> None:
    server.says("any", reply(body))
    assert bytes((await run(server, "any")).output).strip() == body.strip()


async def test_chunked_and_compressed_replies_are_read(server: Server) -> None:
    for answer in (
        _chunked(b"2\r\n[1\r\n1\r\n]\r\n0\r\n\r\n"),
        reply(gzip.compress(b"[1]"), Content_Encoding="gzip"),
        reply(b"[1]", status="201 Created"),
    ):
        server.says("echo", answer)
        assert (await run(server, "echo")).value == [1]


async def test_the_body_of_an_http_error_can_be_the_output(server: Server) -> None:
    output = await run(server, "fail", http_errors="output")
    assert output.value == {"error": "no"}
    server.says("fail", reply(b"<html>", status="502 Bad Gateway"))
    raised = await failure(server, "fail", http_errors="output")
    assert (raised.kind, raised.status, raised.text) == ("status", 502, "HTTP status 502, with a page in HTML")


# -- failures ------------------------------------------------------------------------------------


async def test_a_refused_connection(server: Server, free_tcp_port: int) -> None:
    server.port = free_tcp_port
    raised = await failure(server, "echo")
    assert (raised.kind, raised.status) == ("connection", None)
    assert raised.text == f"cannot connect to {server.url('echo')}/service_output: connection refused"


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("listens", "called", "reached"),
    [
        ("::1", "localhost", True),
        ("127.0.0.1", "LOCALHOST.", True),
        ("::1", "127.0.0.1", False),
        ("127.0.0.1", "[::1]", False),
    ],
)
@pytest.mark.skipif(not has_ipv6(), reason="there is no loopback of IPv6")
async def test_a_program_at_the_other_loopback_address_is_reached_or_named(
    server: Server, listens: str, called: str, reached: bool
) -> None:
    listener = await anyio.create_tcp_listener(local_host=listens)
    port = listener.extra(SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, server._connected)
        async with RemoteRunner(RemoteContainer(id="echo", url=f"http://{called}:{port}/echo")) as runner:
            found: ContainerOutput | ContainerFailed
            try:
                found = await runner.run(make_step("echo", 5))
            except ContainerFailed as failure:
                found = failure
        tasks.cancel_scope.cancel()
    if reached:
        assert isinstance(found, ContainerOutput), found
        assert found.value == 5
    else:
        assert isinstance(found, ContainerFailed)
        hint = f"; a program listens at {listens} instead: let the URL name that address, or localhost"
        assert found.text == f"cannot connect to http://{called}:{port}/echo/service_output: connection refused{hint}"


async def test_a_name_that_does_not_resolve() -> None:
    async with RemoteRunner(RemoteContainer(id="echo", url="http://no-such-host.invalid")) as runner:
        with pytest.raises(ContainerFailed, match=r"no-such-host\.invalid") as raised:
            await runner.run(make_step("echo"))
    assert raised.value.kind == "connection"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="no reply"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", id="in the head"),
        pytest.param(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 10\r\n\r\n[1", id="in the body"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[1", id="in a chunk"
        ),
        pytest.param(b"SSH-2.0-OpenSSH\r\n\r\n", id="not HTTP"),
        pytest.param(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: many\r\n\r\n", id="a bad head"),
    ],
)
async def test_a_reply_that_is_dropped_or_broken(answer: bytes) -> None:
    async def connected(stream: SocketStream) -> None:
        async with stream:
            await _receive(stream)
            await stream.send(answer) if answer else None

    server = Server()
    server._connected = connected  # type: ignore[method-assign]
    async with server.serving():
        raised = await failure(server, "echo")
        assert raised.kind == "connection"
        assert f"the connection to {server.url('echo')}/service_output was dropped" in raised.text


async def test_no_reply_is_given_up_when_the_node_says_so(server: Server) -> None:
    async with runner_for(server, "slow") as runner:
        with anyio.move_on_after(0.1) as scope:
            await runner.run(make_step("slow"))
        assert scope.cancelled_caught
        await until(lambda: not server.open)


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        ("404 Not Found", "schlecht: é", "HTTP status 404: schlecht: é"),
        ("500 No", "", "HTTP status 500"),
        ("500 No", HOSTILE, f"HTTP status 500: {ESCAPED}"),
        ("503 Busy", "x" * 100_000, f"HTTP status 503: {'x' * 500}…"),
    ],
)
async def test_an_http_error_is_told_with_the_begin_of_its_body(
    server: Server, status: str, body: str, text: str
) -> None:
    server.says("fail", reply(body.encode(), status=status))
    raised = await failure(server, "fail")
    assert (raised.kind, raised.status, raised.text) == ("status", int(status[:3]), text)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("soon", None), ("-3", 0.0), ("", None)]
    + [(endless, None) for endless in ("inf", "1e400", "nan", "Infinity")],
)
async def test_retry_after_is_understood(server: Server, header: str, seconds: float | None) -> None:
    server.says("fail", reply(b"", status="503 Busy", Retry_After=header))
    assert (await failure(server, "fail")).retry_after == seconds


async def test_redirects_are_errors_and_not_followed(server: Server) -> None:
    server.says("fail", reply(b"", status="302 Found", Location=f"{server.url('echo')}/service_output"))
    raised = await failure(server, "fail")
    assert (raised.kind, raised.status) == ("status", 302)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"<html>", "the reply is not JSON: "),
        (b"", "the reply is empty"),
        (b"[NaN]", "the reply is not JSON: "),
        (b'"\xff"', "the reply is not UTF-8: "),
        (b"[" * 200 + b"]" * 200, "the reply is nested more than 128 deep"),
        (b"[1", "the reply is not JSON: "),
    ],
)
async def test_a_reply_that_is_not_json(server: Server, body: bytes, text: str) -> None:
    server.says("odd", reply(body))
    raised = await failure(server, "odd")
    assert (raised.kind, raised.status) == ("not_json", 200)
    assert raised.text.startswith(text)


@pytest.mark.parametrize("length", [True, False], ids=["announced", "unannounced"])
async def test_a_reply_over_the_limit(server: Server, length: bool) -> None:
    body = json.dumps("x" * 5000).encode()
    chunked = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    answer = reply(body) if length else _chunked(chunked)
    server.says("large", answer)
    raised = await failure(server, "large", max_reply_bytes=len(body) - 1)
    assert (raised.kind, raised.text) == ("too_large", f"the reply is larger than {len(body) - 1} bytes")
    assert (await run(server, "large", max_reply_bytes=len(body))).value == "x" * 5000


async def test_a_reply_that_announces_too_much_is_not_waited_for(server: Server) -> None:
    server.says("large", b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n[")
    assert (await failure(server, "large", max_reply_bytes=4999)).kind == "too_large"


def _chunked(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body


async def test_a_small_reply_that_unpacks_to_a_large_one(server: Server) -> None:
    packer = zlib.compressobj(1, wbits=31)  # in pieces: the peak of memory is to be the reader's
    packed = b"".join(packer.compress(piece) for piece in [b'"', *[b"x" * 1_000_000] * 100, b'"'])
    server.says("bomb", reply(packed + packer.flush(), Content_Encoding="gzip"))
    before = _peak_bytes()
    raised = await failure(server, "bomb", max_reply_bytes=2_000_000)
    assert raised.kind == "too_large"
    assert _peak_bytes() - before < 50_000_000


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# -- up and down ---------------------------------------------------------------------------------


async def test_a_container_is_down_after_a_failed_connection_and_up_once_it_answers(free_tcp_port: int) -> None:
    server = Server(port=free_tcp_port)
    server.says("echo", reply(b"1"))
    async with runner_for(server, "echo", "other") as runner:
        assert {*runner.running()} == {"echo", "other"}
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(runner.changed)
                await anyio.wait_all_tasks_blocked()
                await _fail(runner, "echo")
        assert {*runner.running()} == {"other"}
        [problem] = runner.problems()
        assert problem.startswith("container 'echo': cannot connect to ")
        async with server.serving(port=free_tcp_port):
            with anyio.fail_after(60):
                while "echo" not in runner.running():
                    await runner.changed()
            assert list(runner.problems()) == []
            assert (await runner.run(make_step("echo"))).value == 1


async def test_what_everybody_may_read_has_nothing_of_a_reply_that_broke_off(server: Server) -> None:
    for what in ("echo", "health"):
        server.says(what, b"HTTP/9.9 the s3cret of one client\r\n\r\n")
    async with runner_for(server, "echo") as runner:
        await _fail(runner, "echo")
        await until(runner.problems)
        [problem] = runner.problems()
        assert problem.startswith(f"container 'echo': a call to {server.url('echo')} broke off")
        assert "s3cret" not in problem


async def test_an_http_error_does_not_take_a_container_down(server: Server) -> None:
    async with runner_for(server, "fail") as runner:
        await _fail(runner, "fail")
        assert {*runner.running()} == {"fail"}
        assert list(runner.problems()) == []


async def _fail(runner: RemoteRunner, name: str) -> None:
    with pytest.raises(ContainerFailed):
        await runner.run(make_step(name))


# -- what containers say of themselves ----------------------------------------------------------------


async def described(server: Server, *answers: bytes, model_id: str | None = None, **settings: Any) -> Any:
    server.says("echo", *answers)
    async with runner_for(server, "echo", **settings) as runner:
        with anyio.fail_after(60):
            said = await runner.resources("echo", model_id)
        assert runner.running() == {"echo"}  # whatever it said
        return said


@pytest.mark.parametrize(
    ("model_id", "query"), [(None, ""), ("", "?model_id="), ("a/b c&d=é+%", "?model_id=a%2Fb%20c%26d%3D%C3%A9%2B%25")]
)
async def test_a_container_is_asked_what_it_has(server: Server, model_id: str | None, query: str) -> None:
    body = b'{"models": [ 1, 1.50 ],"models":1}'
    assert await described(server, reply(body), model_id=model_id) == msgspec.Raw(body)
    (asked,) = server.requests
    assert (asked.method, urlsplit(asked.path).path) == ("GET", "/echo/service-resources")
    assert parse_qsl(urlsplit(asked.path).query, keep_blank_values=True) == parse_qsl(query[1:], keep_blank_values=True)


async def test_a_bearer_travels_along_when_a_container_is_asked_what_it_has(server: Server) -> None:
    await described(server, reply(b"{}"), bearer=Secret("s3cret"))
    assert server.requests[-1].headers["authorization"] == "Bearer s3cret"


@pytest.mark.parametrize(
    "answer",
    [
        reply(b'{"a":1}', status="404 Not Found"),
        reply(b'{"a":1}', status="500 Internal Server Error"),
        reply(b'{"a":1}', status="302 Found", Location="/echo/health"),
        reply(b"<html>"),
        reply(b""),
        reply(b'{"a":NaN}'),
        reply(b'"\xff"'),
        reply(b"[" * 200 + b"]" * 200),
        reply(b'"' + b"x" * (1 << 20) + b'"'),
        b"SSH-2.0-OpenSSH\r\n\r\n",
    ],
)
async def test_what_is_no_json_of_a_success_says_nothing(server: Server, answer: bytes) -> None:
    assert await described(server, answer) is None
    assert len(server.requests) == 1  # a redirect is not followed


def test_a_url_that_holds_a_password_is_refused_and_not_shown() -> None:
    with pytest.raises(ValueError, match="no user or password") as refused:
        RemoteContainer(id="a", url="http://admin:hunter2@127.0.0.1:1")
    assert "hunter2" not in str(refused.value)


def test_pauses_double_up_to_a_limit_and_start_again_after_a_steady_run() -> None:
    pauses = [restart_pause(0.0, 1.0)]
    for _ in range(8):
        pauses.append(restart_pause(pauses[-1], 1.0))
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert restart_pause(LONGEST_PAUSE_SECONDS, STEADY_SECONDS) == FIRST_PAUSE_SECONDS
