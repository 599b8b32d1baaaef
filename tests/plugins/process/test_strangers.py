"""A program of another user at the port of a container gets nothing, and answers for nobody."""

import errno
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from components import until

from nodekit import ContainerFailed, NotStarted, Secret
from nodekit.testing import make_step
from nodekit_process import ProcessContainer, ProcessRunner
from nodekit_process import _sockets as sockets
from nodekit_process._ports import free_port

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux says whose a socket is"),
]
as_root = pytest.mark.skipif(bool(os.geteuid()), reason="only root can be another user")

NOBODY = 65534


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


SERVER = """
import os, socket, sys, time

def answer(listener):
    while True:
        connection, _ = listener.accept()
        if not os.fork():
            while connection.recv(65536):
                connection.send(b'HTTP/1.1 200 OK\\r\\nContent-Length: 6\\r\\n\\r\\n"mine"')
            os._exit(0)
        connection.close()

def bound(host="127.0.0.1", family=socket.AF_INET, **options):
    listener = socket.socket(family)
    for name, value in options.items():
        level = socket.SOL_SOCKET if name.startswith("SO") else socket.IPPROTO_TCP
        listener.setsockopt(level, getattr(socket, name), value)
    listener.bind((host, int(os.environ["PORT"])))
    return listener

def serve(listener):
    listener.listen()
    answer(listener)
"""


def container(source: str = "serve(bound())", id: str = "one", **settings: Any) -> ProcessContainer:
    command = (sys.executable, "-ISc", SERVER + source)
    return ProcessContainer(id=id, command=command, **{"startup_seconds": 60.0, **settings})


STRANGER = """
import os, select, socket, sys, time
uid, port, reuse, got = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
log = open(got, "ab", buffering=0)
os.setuid(uid)
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if reuse:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
end = time.monotonic() + 30
while True:
    try:
        listener.bind(("127.0.0.1", port))
        break
    except OSError:
        if time.monotonic() > end:
            raise
listener.listen()
print("listens", flush=True)
while True:
    connection, _ = listener.accept()
    if len(sys.argv) > 5:  # it leaves the port to the container and keeps the connection
        listener.close()
    log.write(b"+")
    while data := connection.recv(65536):
        log.write(data)
        connection.send(b'HTTP/1.1 200 OK\\r\\nContent-Length: 8\\r\\n\\r\\n"forged"')
    if len(sys.argv) > 5:
        time.sleep(60)
"""


class Stranger:
    """A program of another user that answers at a port, and keeps all that it gets."""

    def __init__(
        self, folder: Path, port: int, *, user: int = NOBODY, reuse: bool = False, leaves: bool = False
    ) -> None:
        self._got = folder / "got"
        self._got.touch()
        given = [str(user), str(port), "reuse" if reuse else "", str(self._got), *(["leaves"] if leaves else [])]
        self._process = subprocess.Popen([sys.executable, "-ISc", STRANGER, *given], stdout=subprocess.PIPE)
        assert self._process.stdout
        assert self._process.stdout.readline() == b"listens\n"

    @property
    def got(self) -> bytes:
        return self._got.read_bytes()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """Choose the port of all containers of a test."""
    with free_port() as port:
        pass

    @contextmanager
    def given() -> Iterator[int]:
        yield port

    monkeypatch.setattr("nodekit_process._supervised.free_port", given)
    return port


async def answer(runner: ProcessRunner) -> Any:
    return (await runner.run(make_step("one", {"card": "4111"}))).value


# -- somebody is first ----------------------------------------------------------------------------


@as_root
@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize(
    "source",
    [
        pytest.param("serve(bound())", id="fails to bind"),
        pytest.param("serve(bound(SO_REUSEPORT=1, SO_REUSEADDR=1))", id="shares its port"),
        pytest.param("time.sleep(600)", id="does not listen yet"),
    ],
)
async def test_a_stranger_at_the_port_of_a_container_is_not_even_asked_if_it_is_ready(
    tmp_path: Path, port: int, source: str, reuse: bool
) -> None:
    with closing(Stranger(tmp_path, port, reuse=reuse)) as stranger:
        with pytest.raises(
            NotStarted, match=rf'a program of user {NOBODY} has taken its port {port}; with listen = "inh'
        ):
            async with ProcessRunner(container(source, bearer=Secret("sesame"), startup_seconds=1.0)):
                pytest.fail("a stranger was taken for it")
        assert stranger.got == b""


async def test_a_program_of_the_same_user_that_is_no_container_is_not_taken_for_one(tmp_path: Path, port: int) -> None:
    with closing(Stranger(tmp_path, port, user=os.geteuid())) as stranger:
        with pytest.raises(NotStarted, match=f"a program of user {os.geteuid()} has taken its port {port}"):
            async with ProcessRunner(container("time.sleep(600)", startup_seconds=1.0)):
                pytest.fail("a stranger was taken for it")
        assert stranger.got == b""


@as_root
async def test_a_stranger_that_takes_the_port_later_gets_nothing_and_answers_nothing(tmp_path: Path, port: int) -> None:
    """The container closes its socket, and lives on."""
    source = """
listener = bound(SO_REUSEADDR=1)
listener.listen()
connection, _ = listener.accept()
connection.recv(65536)
connection.send(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: 2\\r\\n\\r\\n{}")
listener.close()
time.sleep(600)
"""
    async with ProcessRunner(container(source, bearer=Secret("sesame"))) as runner:
        with closing(Stranger(tmp_path, port)) as stranger:
            with pytest.raises(ContainerFailed, match=f"a program of user {NOBODY} has taken its port") as caught:
                await answer(runner)
            assert caught.value.kind == "connection"
            assert stranger.got in (b"", b"+")


@as_root
async def test_a_stranger_that_took_a_connection_and_left_the_port_to_the_container_gets_nothing(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever listens is checked before the connection is made, and again after it; neither says who has taken it."""
    source = "serve(bound(SO_REUSEADDR=1))"
    async with ProcessRunner(container(source, bearer=Secret("sesame"))) as runner:
        process, _ = runner.upkeep["one"]._up  # type: ignore[attr-defined]
        peers = runner._peers
        with (
            free_port() as other,
            peers.at(other, process),
            closing(Stranger(tmp_path, other, leaves=True)) as stranger,
        ):
            with socket.create_connection(("127.0.0.1", other)) as connection:
                await until(lambda: stranger.got)
                with socket.socket() as ours:
                    ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    ours.bind(("127.0.0.1", other))
                    ours.listen()
                    with pytest.raises(ContainerFailed, match=f"a program of user {NOBODY}"):
                        peers.check(connection.getsockname(), connection.getpeername())


async def test_an_ended_container_is_not_called_at_its_old_port() -> None:
    async with ProcessRunner(container()) as runner:
        with pytest.raises(ContainerFailed, match="has ended"):
            runner._peers.check(("127.0.0.1", 1), ("127.0.0.1", 2))


# -- containers that are what they seem -----------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("serve(bound())", id="loopback"),
        pytest.param("serve(bound('0.0.0.0'))", id="all addresses"),
        pytest.param("serve(bound('::', socket.AF_INET6))", id="both families"),
        pytest.param("serve(bound('::ffff:127.0.0.1', socket.AF_INET6))", id="mapped"),
        pytest.param("serve(bound(SO_REUSEPORT=1))", id="shared"),
        pytest.param("serve(bound(TCP_DEFER_ACCEPT=5))", id="accepts late"),
        pytest.param("l = bound()\nl.listen()\nos.fork()\nanswer(l)", id="workers"),
        pytest.param(
            "l = bound()\nl.listen()\nos.setsid() if not os.fork() else time.sleep(600)\nanswer(l)", id="daemon"
        ),
        pytest.param("l = bound()\nl.listen()\nos.setuid(65534)\nanswer(l)", id="another user", marks=as_root),
        pytest.param("os.setuid(65534)\nserve(bound())", id="another user listens", marks=as_root),
    ],
)
@pytest.mark.parametrize("asks", [True, False], ids=["asks", "reads tables"])
async def test_a_container_may_listen_as_it_likes(source: str, asks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not asks:
        monkeypatch.setattr(sockets.SocketTable, "_try", sockets.SocketTable._close)
    async with ProcessRunner(container(source)) as runner:
        assert (runner._peers._sockets._kernel is not None) == asks
        for _ in range(3):
            assert await answer(runner) == "mine"


async def test_a_busy_container_is_called_before_it_has_accepted() -> None:
    """A server with one thread accepts a second connection when it has answered on the first."""
    source = """
listener = bound()
listener.listen()
while True:
    connection, _ = listener.accept()
    data = connection.recv(65536)
    time.sleep(0.1 if b"POST" in data else 0)
    connection.send(b'HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: 6\\r\\n\\r\\n"mine"')
    connection.close()
"""
    answers: list[Any] = []

    async def call() -> None:
        answers.append(await answer(runner))

    async with ProcessRunner(container(source)) as runner:
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(call)
    assert answers == ["mine"] * 4


INHERITED = """
assert os.environ["LISTEN_FDS"] == "1"
assert os.environ["LISTEN_PID"] == str(os.getpid())
assert sorted(os.listdir("/proc/self/fd")) == ["0", "1", "2", "3", "4"], os.listdir("/proc/self/fd")  # 4: the folder
listener = socket.socket(fileno=3)
assert listener.getsockname()[1] == int(os.environ["PORT"])
answer(listener)
"""


async def test_a_container_that_inherits_its_socket_is_called_there_also_after_it_died() -> None:
    async with ProcessRunner(container(INHERITED, listen="inherit")) as runner:
        assert await answer(runner) == "mine"
        process, endpoint = runner.upkeep["one"]._up  # type: ignore[attr-defined]
        os.kill(process.pid, signal.SIGKILL)
        await until(lambda: runner.instance("one") not in ("", endpoint.instance))
        assert await answer(runner) == "mine"


APPLICATION = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"6")]})
    await send({"type": "http.response.body", "body": b'"mine"'})
"""


@pytest.mark.parametrize(
    "server", [("uvicorn", "--fd", "3"), ("hypercorn", "--bind", "fd://3")], ids=lambda one: one[0]
)
async def test_servers_inherit_a_socket_as_the_documentation_says(tmp_path: Path, server: tuple[str, ...]) -> None:
    (tmp_path / "application.py").write_text(APPLICATION)
    command = (sys.executable, "-m", *server, "application:app")
    one = ProcessContainer(id="one", command=command, folder=tmp_path, listen="inherit", startup_seconds=60)
    async with ProcessRunner(one) as runner:
        assert await answer(runner) == "mine"


async def test_nobody_can_listen_at_a_port_that_is_inherited() -> None:
    async with ProcessRunner(container(INHERITED, listen="inherit")) as runner:
        _, endpoint = runner.upkeep["one"]._up  # type: ignore[attr-defined]
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use") as caught:
                other.bind(("127.0.0.1", int(endpoint.url.rpartition(":")[2])))
            assert caught.value.errno == errno.EADDRINUSE


def test_a_check_of_a_connection_takes_no_descriptor() -> None:
    """A node that has none left must not fail steps for that."""
    with sockets.SocketTable() as table, socket.create_server(("127.0.0.1", 0)) as listener:
        before = len(os.listdir("/proc/self/fd"))
        with opened_all():
            found = table.find(listener.getsockname())
        assert found == (sockets.LISTEN, os.geteuid(), os.fstat(listener.fileno()).st_ino)
        assert len(os.listdir("/proc/self/fd")) == before


@contextmanager
def opened_all() -> Iterator[None]:
    """Use up all descriptors of this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), before[1]))
    held: list[int] = []
    try:
        try:
            while True:
                held.append(os.dup(0))
        except OSError:
            yield
    finally:
        for one in held:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
