"""The limits of containers, and what they can see of their node."""

import json
import os
import resource
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from served import serve

from nodekit import CompositionError, NotStarted
from nodekit.testing import make_step
from nodekit_process import ProcessContainer, ProcessRunner

pytestmark = pytest.mark.anyio

# It answers with the value of an expression that a job gives.
SERVER = r"""
import ctypes, json, os, resource, signal, socket, subprocess, sys, time
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
while True:
    connection, _ = listener.accept()
    data = b""
    while not (data.startswith(b"GET") and data.endswith(b"\r\n\r\n")) and not data.endswith(b"}"):
        data += connection.recv(65536)
    value = None
    if data.startswith(b"POST"):
        try:
            value = eval(json.loads(data.partition(b"\r\n\r\n")[2])["data"]["do"])
        except BaseException as error:
            value = f"{type(error).__name__}: {error}"
    body = json.dumps(value).encode()
    connection.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    connection.close()
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def container(id: str = "one", *before: str, **settings: Any) -> ProcessContainer:
    return ProcessContainer(id=id, command=(*before, sys.executable, "-Sc", SERVER), startup_seconds=60, **settings)


async def value(runner: ProcessRunner, expression: str) -> Any:
    return (await runner.run(make_step("one", {"do": expression}))).value


async def test_a_process_has_the_limits_of_its_container_and_each_child_has_them_too() -> None:
    limited = container(memory="256MiB", open_files=40, processes=5000)
    child = "subprocess.run(['/bin/sh', '-c', 'ulimit -d; ulimit -n'], capture_output=True, text=True).stdout.split()"
    names = "(resource.RLIMIT_DATA, resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)"
    async with ProcessRunner(limited) as runner:
        assert await value(runner, f"[resource.getrlimit(one) for one in {names}]") == [
            [256 << 20, 256 << 20],
            [40, 40],
            [5000, 5000],
        ]
        assert await value(runner, child) == [str(256 << 10), "40"]
        assert await value(runner, "len(bytearray(64 << 20))") == 64 << 20
        assert await value(runner, "len(bytearray(300 << 20))") == "MemoryError: "
        assert "Too many open files" in await value(runner, "[os.dup(0) for _ in range(50)]")


async def test_without_settings_a_process_has_the_limits_of_the_node() -> None:
    async with ProcessRunner(container()) as runner:
        given = await value(runner, "[resource.getrlimit(one) for one in range(16)]")
    assert given == [list(resource.getrlimit(one)) for one in range(16)]


@pytest.mark.parametrize(
    ("settings", "text"),
    [({"memory": "12 apples"}, "memory: expected at least 1MiB"), ({"memory": 12}, "memory: expected at least 1MiB")],
)
def test_a_size_that_is_none_is_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        container(**settings)


def test_only_root_may_exceed_the_limits_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodekit_process._config.os.geteuid", lambda: 1000)
    with pytest.raises(CompositionError, match=r"containers\[0\].open_files: is above the node's own limit, \d+"):
        ProcessRunner(container(open_files=1 << 31))


async def test_a_limit_that_cannot_be_set_keeps_the_program_from_starting() -> None:
    with pytest.raises(NotStarted, match=r"cannot run .*limit"):
        async with ProcessRunner(container(open_files=1 << 40)):
            pytest.fail("it has no such limit")


OF_THE_LIBRARY = 0b11 << 31
"""Signals 32 and 33, which belong to the C library: no program sets them, and they stay as they were inherited."""


async def test_a_process_starts_with_the_signals_of_a_new_program() -> None:
    """Neither what the node ignores nor what those between them block."""
    async with ProcessRunner(container()) as runner:
        lines = (await value(runner, "open('/proc/self/status').read()")).splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    blocked, ignored = int(status["SigBlk"], 16), int(status["SigIgn"], 16)
    assert blocked & ~OF_THE_LIBRARY == 0
    assert ignored & ~OF_THE_LIBRARY == sum(
        1 << number - 1 for number in (signal.SIGPIPE, signal.SIGXFSZ)
    )  # Python's own doing


# -- what a container sees ------------------------------------------------------------------------

NODE_FILE = """
store = {{ use = "memory" }}

[[runners]]
use = "process"
[[runners.containers]]
id = "one"
command = {command}
startup_seconds = 60
env = {{ OWN = "mine" }}
[[runners.containers]]
id = "two"
command = {command}
startup_seconds = 60
env = {{ OTHER = {{ env = "OTHERS_SECRET" }} }}

[[transports]]
use = "asgi"
bind = "127.0.0.1:0"
"""

SEES = r"""
def ancestors():
    pid = os.getppid()
    while pid > 1:
        yield pid
        pid = int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])

def sees(pid):
    seen = []
    for name in ("environ", "mem", "maps", "auxv"):
        try:
            with open(f"/proc/{pid}/{name}", "rb") as file:
                file.read(0 if name == "mem" else 1)
            seen.append(name)
        except OSError:
            pass
    return seen

def look():
    return [[pid, sees(pid)] for pid in ancestors()]
"""


def without_privileges() -> list[str]:
    """Return the beginning of a command that takes from root the right to look into any process.

    The node has to be without it, too: nobody may look into a process that has more rights.
    """
    return ["setpriv", "--bounding-set=-all"] if not os.geteuid() else []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows memory in files")
@pytest.mark.skipif(not os.geteuid() and not shutil.which("setpriv"), reason="there is no setpriv")
async def test_a_container_sees_neither_the_environment_nor_the_memory_of_its_node(tmp_path: Path) -> None:
    command = [sys.executable, "-Sc", SEES + SERVER]
    file = tmp_path / "node.toml"
    file.write_text(NODE_FILE.format(command=json.dumps(command)))
    env = {**os.environ, "NODES_SECRET": "sesame", "OTHERS_SECRET": "simsim"}
    async with serve(file, env=env, under=without_privileges()) as (served, api):
        answer = await api.post("/api/jobs", {"containers": ["one"], "data": {"do": "[look(), sees(os.getpid())]"}})
        [job] = await api.results(answer.json["id"], seconds=60)
        assert job["status"] == "success", job
        ancestors, own = job["result"]["output"]
        assert own == ["environ", "mem", "maps", "auxv"], "the test does not see what can be seen"
        supervisor, fork_server, node = ancestors[:3]
        assert node[0] == served.process.pid
        assert [seen for _, seen in (supervisor, fork_server, node)] == [[], [], []]
        lines = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid, _ in ancestors[:3])
        assert b"sesame" not in lines
        assert b"simsim" not in lines
        assert b"mine" not in lines
