"""Connections to containers: what is kept, what is not, and what a broken one says about the container."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import anyio
import pytest
from components import make_node, request, settle_down, until
from msgspec.structs import replace

from nodekit import ContainerError, ContainerFailed, JobStatus
from nodekit.testing import make_step
from nodekit_remote import RemoteContainer, RemoteRunner

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def reply(body: bytes, *, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


class Container:
    """A container on a real socket, with a thread for each connection. It does what the data of a call ask for."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self.connections: list[socket.socket] = []
        self.calls: list[Any] = []
        self.probes = 0
        self.let_probes = threading.Event()
        self.let_probes.set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts, which close() does not
        self._listener.close()
        for connection in self.connections:
            connection.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError, ConnectionError):
            while self._answered(connection):
                pass
        connection.close()

    def _answered(self, connection: socket.socket) -> bool:
        received = b""
        while b"\r\n\r\n" not in received:
            if not (piece := connection.recv(65536)):
                return False
            received += piece
        head, _, body = received.partition(b"\r\n\r\n")
        if head.startswith(b"GET"):
            self.probes += 1
            self.let_probes.wait(60)
            connection.sendall(reply(b"{}"))
            return True
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        while len(body) < length:
            body += connection.recv(65536)
        data = json.loads(body)["data"]
        self.calls.append(data)
        return bool(BEHAVIOURS[data.get("do", "echo")](connection, data))


def _echo(connection: socket.socket, data: Any) -> bool:
    connection.sendall(reply(json.dumps(data).encode()))
    return True


def _sends(text: bytes, *, stays: bool = False) -> Callable[[socket.socket, Any], bool]:
    def send(connection: socket.socket, data: Any) -> bool:
        if text:
            connection.sendall(text)
        return stays

    return send


def _twice(connection: socket.socket, data: Any) -> bool:
    connection.sendall(reply(b'"first"') + reply(b'"second"'))
    return True


def _then_close(connection: socket.socket, data: Any) -> bool:
    _echo(connection, data)
    return False


BEHAVIOURS: dict[str, Callable[[socket.socket, Any], bool]] = {
    "echo": _echo,
    "twice": _twice,
    "then close": _then_close,
    "drop": _sends(b""),
    "half a head": _sends(b"HTTP/1.1 200 OK\r\nConte"),
    "half a body": _sends(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"),
    "garbage": _sends(b"\0\0\0\r\n\r\n"),
    "another protocol": _sends(b"SSH-2.0-x\r\n"),
    "two lengths": _sends(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}"),
    "bad chunks": _sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "no gzip": _sends(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"),
    "not json": _sends(reply(b"{")),
    "unavailable": _sends(reply(b"{}", status=b"503 Service Unavailable")),
}
BREAKING = [name for name in BEHAVIOURS if name not in ("echo", "twice", "then close")]


@pytest.fixture
def container() -> Iterator[Container]:
    container = Container()
    yield container
    container.close()


def runner_of(container: Container, **settings: Any) -> RemoteRunner:
    return RemoteRunner(RemoteContainer(id="x", url=container.url, **settings))


async def output(runner: RemoteRunner, **data: Any) -> Any:
    return json.loads(bytes((await runner.run(make_step("x", data=data))).output))


# -- kept connections -----------------------------------------------------------------------------


async def test_a_connection_is_kept_for_the_next_call(container: Container) -> None:
    async with runner_of(container) as runner:
        for number in range(5):
            assert await output(runner, n=number) == {"n": number}
    assert len(container.connections) == 1


@pytest.mark.parametrize("late", [reply(b'"another\'s"'), b"H", b"\0" * 1000, reply(b'"a"') + reply(b'"b"')])
@pytest.mark.parametrize("is_read", [False, True])
async def test_what_comes_late_on_a_kept_connection_is_nobodys_output(
    container: Container, late: bytes, is_read: bool
) -> None:
    async with runner_of(container) as runner:
        for number in range(3):
            assert await output(runner, n=number) == {"n": number}
            with suppress(OSError):
                container.connections[-1].sendall(late)
            if is_read:
                await settle_down()
    assert container.calls == [{"n": number} for number in range(3)]


async def test_two_replies_at_once_are_one_output(container: Container) -> None:
    async with runner_of(container) as runner:
        assert await output(runner, do="twice") == "first"
        for number in range(1, 3):
            assert await output(runner, n=number) == {"n": number}
    assert len(container.connections) == 3  # none is kept of a container that does so


async def test_no_connection_is_kept_of_a_container_that_has_sent_a_late_reply(container: Container) -> None:
    async with runner_of(container) as runner:
        await output(runner, n=0)
        container.connections[0].sendall(reply(b"{}"))
        for number in range(1, 4):
            assert await output(runner, n=number) == {"n": number}
    assert len(container.connections) == 4


async def test_a_kept_connection_that_has_ended_is_no_failure(container: Container) -> None:
    async with runner_of(container) as runner:
        for number in range(5):
            assert await output(runner, n=number, do="then close") == {"n": number, "do": "then close"}
            await settle_down()
    assert len(container.connections) == len(container.calls) == 5


async def test_a_call_that_a_kept_connection_drops_is_made_once_more_on_a_new_one(container: Container) -> None:
    async with runner_of(container) as runner:
        await output(runner, n=0)
        with pytest.raises(ContainerFailed, match="was dropped"):
            await output(runner, do="drop")
        assert container.calls == [{"n": 0}, {"do": "drop"}, {"do": "drop"}]


async def test_a_call_that_a_new_connection_drops_is_not_made_again(container: Container) -> None:
    async with runner_of(container) as runner:
        with pytest.raises(ContainerFailed, match="was dropped"):
            await output(runner, do="drop")
    assert container.calls == [{"do": "drop"}]


@pytest.mark.filterwarnings("ignore:Sending a large body")
async def test_a_reply_before_the_whole_request_is_the_last_on_its_connection() -> None:
    served: list[int] = []

    async def serve(stream: Any) -> None:
        served.append(0)
        async with stream:
            await stream.receive()
            await stream.send(reply(b'"early"'))
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    served[-1] += len(await stream.receive())

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        async with RemoteRunner(RemoteContainer(id="x", url=f"http://127.0.0.1:{port}")) as runner:
            for _ in range(2):
                assert await output(runner, text="x" * 30_000_000) == "early"
        assert len(served) == 2
        tasks.cancel_scope.cancel()


# -- what a broken connection says ----------------------------------------------------------------


@pytest.mark.parametrize("when_down", ["fail", "wait"])
@pytest.mark.parametrize("what", BREAKING)
async def test_calls_of_one_client_that_break_fail_no_job_of_another(
    container: Container, what: str, when_down: Any
) -> None:
    runner = runner_of(container, when_down=when_down)
    async with make_node(runner, concurrency=8, drain_seconds=0) as node:
        jobs = []
        for number in range(20):
            jobs.append(await node.submit(request("x", client="mallory", do=what)))
            jobs.append(await node.submit(request("x", client="bob", n=number)))
        found = await node.wait([job.id for job in jobs])
        mallory, bob = found[0::2], found[1::2]
        assert {job.client for job in bob} == {"bob"}
        assert [job.status for job in bob] == [JobStatus.SUCCESS] * 20
        assert [job.status for job in mallory] == [JobStatus.FAILED] * 20
        await until(lambda: "x" in runner.running())
        assert runner.problems() == []


@pytest.mark.parametrize("when_down", ["fail", "wait"])
async def test_a_container_that_is_too_busy_for_a_probe_is_not_down(container: Container, when_down: Any) -> None:
    container.let_probes.clear()
    runner = runner_of(container, when_down=when_down)
    async with make_node(runner, drain_seconds=0) as node:
        broken = await node.submit(request("x", client="mallory", do="drop"))
        await node.wait([broken.id])
        await until(lambda: container.probes > 0)
        job = await node.submit(request("x", client="bob", n=1))
        [done] = await node.wait([job.id])
        assert done.status is JobStatus.SUCCESS
        assert runner.problems() == []
        container.let_probes.set()


async def test_a_container_that_takes_no_connection_is_down_until_it_answers(container: Container) -> None:
    runner = runner_of(container, when_down="fail")
    async with make_node(runner, drain_seconds=0) as node:
        container.close()
        jobs = [await node.submit(request("x", client=client)) for client in "abc"]
        found = await node.wait([job.id for job in jobs])
        assert {job.status for job in found} == {JobStatus.FAILED}
        await until(lambda: not runner.running())
        for job in found:
            assert isinstance(job.result, ContainerError)
            assert job.result.kind == "connection"


async def test_a_container_that_died_with_a_call_is_found_down(container: Container) -> None:
    runner = runner_of(container)
    async with make_node(runner, drain_seconds=0) as node:
        held = await node.submit(request("x", client="a", do="then close"))
        await node.wait([held.id])
        container.close()
        job = replace(request("x", client="a"), pipeline="sequence")
        await node.submit(job)
        await until(lambda: runner.problems() != [])
        assert list(runner.running()) == []
