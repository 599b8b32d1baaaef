"""Containers that close kept connections in every way, and containers that serve few connections at once."""

import json
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

import anyio
import pytest

from nodekit import ContainerFailed
from nodekit.testing import make_step
from nodekit_remote import RemoteContainer, RemoteRunner, _connector
from nodekit_remote._idle import LONGEST_SECONDS, SHORTEST_SECONDS, IdleRule, trial_seconds

pytestmark = pytest.mark.anyio

PATIENCE_SECONDS = 60
FOR_EVER = 3600.0
LARGE = "x" * 4_000_000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Call:
    """A call that has arrived, with its number among all calls of the server."""

    def __init__(self, connection: socket.socket, number: int, on_connection: int, length: int, body: bytes) -> None:
        self.connection = connection
        self.number = number
        self.on_connection = on_connection
        """Number of calls that this connection had before."""
        self._length, self._body = length, body

    @property
    def data(self) -> Any:
        """The data, for which the rest of the body is received."""
        while len(self._body) < self._length:
            self._body += self.connection.recv(1 << 20)
        return json.loads(self._body)["data"]

    def reply(self, version: bytes = b"HTTP/1.1", headers: bytes = b"") -> None:
        body = json.dumps(self.data).encode()
        head = b"%s 200 OK\r\nContent-Length: %d\r\n%s\r\n" % (version, len(body), headers)
        self.connection.sendall(head + body)

    def reset(self) -> None:
        """Have the connection reset when it is closed."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


Behaviour: TypeAlias = Callable[[Call], bool]
"""It answers a call. If it returns False, the connection is closed."""


class Server:
    """A container on a real socket, with so many threads, of which each serves a connection until it ends."""

    def __init__(self, behaviour: Behaviour, threads: int) -> None:
        self.calls = 0
        self.connections = 0
        self._behaviour = behaviour
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    @property
    def url(self) -> str:
        return "http://127.0.0.1:{1}".format(*self._listener.getsockname())

    @contextmanager
    def running(self) -> Iterator["Server"]:
        for thread in self._threads:
            thread.start()
        yield self
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._open.add(connection)
                with suppress(OSError, ValueError):
                    self._serve(connection)
                self._open.discard(connection)
                connection.close()

    def _serve(self, connection: socket.socket) -> None:
        before = 0
        while True:
            received = b""
            while b"\r\n\r\n" not in received:
                if not (piece := connection.recv(65536)):
                    return
                received += piece
            head, _, body = received.partition(b"\r\n\r\n")
            with self._lock:
                number, self.calls = self.calls, self.calls + 1
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            if not self._behaviour(Call(connection, number, before, length, body)):
                return
            before += 1


@contextmanager
def serving(behaviour: Behaviour, threads: int = 8) -> Iterator[Server]:
    with Server(behaviour, threads).running() as server:
        yield server


def runner_of(server: Server) -> RemoteRunner:
    return RemoteRunner(RemoteContainer(id="x", url=server.url))


async def output(runner: RemoteRunner, data: Any) -> Any:
    with anyio.fail_after(PATIENCE_SECONDS):
        return json.loads(bytes((await runner.run(make_step("x", data=data))).output))


def echo(call: Call) -> bool:
    call.reply()
    return True


# -- a kept connection that closes ----------------------------------------------------------------


@pytest.mark.parametrize("how", ["closes", "resets", "half-closes"])
@pytest.mark.parametrize("milliseconds", [0, 1, 5, 20])
async def test_a_container_that_closes_after_its_reply_fails_no_call(how: str, milliseconds: int) -> None:
    def close(call: Call) -> bool:
        call.reply()
        time.sleep(milliseconds / 1000)
        if how == "half-closes":
            call.connection.shutdown(socket.SHUT_WR)
            call.connection.recv(1)  # it reads on until the caller closes, and never answers
        elif how == "resets":
            call.reset()
        return False

    chance = random.Random(milliseconds)
    with serving(close) as server:
        async with runner_of(server) as runner:
            for number in range(30):
                assert await output(runner, number) == number
                await anyio.sleep(milliseconds / 1000 * chance.choice([0, 0.5, 0.9, 1, 1.1, 1.5]))
        assert server.connections >= 30


@pytest.mark.filterwarnings("ignore:Sending a large body")
@pytest.mark.parametrize("resets", [False, True])
async def test_a_call_during_whose_body_a_kept_connection_closes_is_made_once_more(resets: bool) -> None:
    def close(call: Call) -> bool:
        if call.on_connection == 0:
            return echo(call)
        if resets:
            call.reset()
        call.connection.recv(100_000)  # of four megabytes
        return False

    with serving(close) as server:
        async with runner_of(server) as runner:
            for number in range(3):
                assert await output(runner, [number, LARGE]) == [number, LARGE]
        assert server.calls == 5


@pytest.mark.parametrize(
    "part", [b"H", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"]
)
@pytest.mark.parametrize("resets", [False, True])
async def test_after_the_first_byte_a_call_is_not_made_again(part: bytes, resets: bool) -> None:
    seen: list[Any] = []

    def break_off(call: Call) -> bool:
        seen.append(call.data)
        if call.on_connection == 0:
            return echo(call)
        call.connection.sendall(part)
        time.sleep(0.02)  # or the reset overtakes the bytes
        if resets:
            call.reset()
        return False

    with serving(break_off) as server:
        async with runner_of(server) as runner:
            assert await output(runner, 0) == 0
            with pytest.raises(ContainerFailed, match="was dropped"):
                await output(runner, 1)
    assert seen == [0, 1]


@pytest.mark.parametrize("resets", [False, True])
async def test_a_new_connection_that_closes_is_a_failure(resets: bool) -> None:
    def close(call: Call) -> bool:
        assert call.data is not None
        if resets:
            call.reset()
        return False

    with serving(close) as server:
        async with runner_of(server) as runner:
            with pytest.raises(ContainerFailed, match="was dropped"):
                await output(runner, 1)
        assert server.calls == 1


@pytest.mark.parametrize(
    ("version", "headers"),
    [(b"HTTP/1.1", b"Connection: close\r\n"), (b"HTTP/1.0", b""), (b"HTTP/1.0", b"Connection: keep-alive\r\n")],
)
@pytest.mark.parametrize("stays", [False, True])
async def test_a_reply_need_not_be_right_about_its_connection(version: bytes, headers: bytes, stays: bool) -> None:
    def answer(call: Call) -> bool:
        call.reply(version, headers)
        return stays

    with serving(answer) as server:
        async with runner_of(server) as runner:
            for number in range(10):
                assert await output(runner, number) == number


# -- a container that serves few connections at once ----------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
async def test_kept_connections_keep_no_call_waiting(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setattr(_connector, "KEEP_ALIVE_SECONDS", FOR_EVER)
    with serving(echo, threads) as server:
        async with runner_of(server) as runner, anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(output, runner, number)
        assert server.calls == 20


async def test_a_connection_that_is_always_in_use_keeps_no_call_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_connector, "KEEP_ALIVE_SECONDS", FOR_EVER)
    answered: list[Any] = []
    with serving(echo, 1) as server:
        async with runner_of(server) as runner:

            async def others() -> None:
                while len(answered) < 3:
                    await output(runner, "others")

            async def one(number: int) -> None:
                answered.append(await output(runner, number))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(others)
                for number in range(3):
                    tasks.start_soon(one, number)
    assert sorted(answered) == [0, 1, 2]


async def test_a_container_that_serves_many_at_once_keeps_its_connections() -> None:
    with serving(echo, threads=16) as server:
        async with runner_of(server) as runner:

            async def caller() -> None:
                for number in range(50):
                    await output(runner, number)

            async with anyio.create_task_group() as tasks:
                for _ in range(8):
                    tasks.start_soon(caller)
        assert server.calls == 400
        assert server.connections < 100


# -- the rule -------------------------------------------------------------------------------------


def test_a_connection_is_kept_if_nobody_waits() -> None:
    rule = IdleRule()
    assert rule.released() is True
    rule.waits("a")
    rule.answered("a")
    rule.waits("b")
    rule.ended("b")
    assert rule.released() is True
    assert rule.is_blank


def test_trials_become_rarer_while_they_fail_and_frequent_once_one_succeeds() -> None:
    rule, closed = IdleRule(), []
    rule.waits("a")
    for _ in range(8):
        closes = 0
        while (trial := rule.released()) is False:
            closes += 1
        assert rule.released() is True  # during the trial
        assert rule.expired(trial)
        assert not rule.expired(trial)
        closed.append(closes)
    assert closed == [0, 1, 3, 7, 15, 31, 63, 63]
    while rule.released() is False:
        pass
    rule.answered("a")
    rule.waits("b")
    assert not isinstance(rule.released(), bool)  # a trial at once


def test_a_trial_in_which_nobody_waits_any_more_says_nothing() -> None:
    rule = IdleRule()
    rule.waits("a")
    trial = rule.released()
    rule.ended("a")
    assert not rule.expired(trial)
    assert rule.is_blank


def test_a_trial_takes_a_part_of_a_calls_time() -> None:
    assert [trial_seconds(seconds) for seconds in (0.001, 0.2, 100)] == [SHORTEST_SECONDS, 0.025, LONGEST_SECONDS]
