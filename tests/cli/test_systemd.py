"""Reports to systemd: by the protocol, with a real node whose manager is the test; and the unit of `deploy/`."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from components import until
from http_api import Api
from node_files import write
from paths import ROOT
from served import Served, serve, started

from nodekit.cli.serve.systemd import MOST_UNSENT, STOP_SECONDS, Systemd

pytestmark = pytest.mark.anyio

UNIT = ROOT / "deploy" / "nodekit.service"
NODE = """
[node]
drain_seconds = 60

[store]
use = "memory"

[[runners]]
use = "process"

[[runners.containers]]
id = "slow"
command = ["{python}", "{folder}/slow.py"]

[[transports]]
use = "asgi"
bind = "127.0.0.1:0"
"""
SLOW = """
import os, pathlib, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

folder = pathlib.Path(__file__).parent


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply(b"{}")

    def do_POST(self):
        while not (folder / "go").exists():
            time.sleep(0.02)
        self.reply(b'{"output": 1}')

    def reply(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


(folder / "environment").write_text("\\n".join(os.environ))
while (folder / "hold").exists():
    time.sleep(0.02)
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


STUCK = """
import pathlib, time

folder = pathlib.Path(__file__).parent


async def stuck(data):
    (folder / "stuck").touch()
    while not (folder / "go").exists():
        time.sleep(0.02)  # in the event loop
    return 1
"""
STUCK_NODE = """
[store]
use = "memory"

[[runners]]
use = "function"

[[runners.containers]]
id = "stuck"
call = "stuck.py:stuck"

[[transports]]
use = "asgi"
bind = "127.0.0.1:0"
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Manager:
    """The receiving end of the reports, as systemd has it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1) if address[0] == "@" else address)
        self._socket.setblocking(False)
        self.reports: list[str] = []

    def close(self) -> None:
        self._socket.close()

    def read(self) -> list[str]:
        """Return all reports that have come so far."""
        while True:
            try:
                self.reports.append(self._socket.recv(65536).decode())
            except BlockingIOError:
                return self.reports

    @property
    def lines(self) -> list[str]:
        return [line for report in self.read() for line in report.splitlines()]

    def has(self, line: str) -> bool:
        return any(one.startswith(line) for one in self.lines)

    async def said(self, line: str, times: int = 1) -> None:
        """Wait until a line that begins like this has come so many times."""
        await until(lambda: sum(one.startswith(line) for one in self.lines) >= times)


@pytest.fixture
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    """A manager at a path, or at an abstract name if this is its parameter."""
    abstract = f"@nodekit-test-{os.getpid()}-{time.monotonic_ns()}"
    manager = Manager(abstract if getattr(request, "param", "") == "abstract" else str(tmp_path / "notify"))
    try:
        yield manager
    finally:
        manager.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "slow.py").write_text(SLOW)
    return write(tmp_path, NODE.format(python=sys.executable, folder=tmp_path))


def environment(manager: Manager | str, **more: str) -> dict[str, str]:
    address = manager if isinstance(manager, str) else manager.address
    return {**os.environ, "NOTIFY_SOCKET": address, **more}


@asynccontextmanager
async def reporting(file: Path, manager: Manager, **env: str) -> AsyncIterator[tuple[Served, Api]]:
    async with serve(file, env=environment(manager, **env)) as (served, api):
        await manager.said("READY=1")
        yield served, api


@pytest.mark.parametrize("manager", ["path", "abstract"], indirect=True)
async def test_a_node_reports_from_its_start_to_its_end(file: Path, manager: Manager) -> None:
    async with reporting(file, manager) as (served, api):
        await manager.said("STATUS=0 running, 0 queued")
        assert manager.lines.index("STATUS=starting") < manager.lines.index("READY=1")
        assert not manager.has("STOPPING=1")
        assert not manager.has("WATCHDOG=1")
        await api.submit("slow")
        served.signal(signal.SIGTERM)
        await manager.said("STOPPING=1")
        await manager.said("STATUS=draining: 1 left")
        await manager.said("EXTEND_TIMEOUT_USEC=", times=3)
        (file.parent / "go").touch()
        assert await served.ended() == 0
    assert manager.lines.count("READY=1") == 1


async def test_ready_is_reported_only_when_the_transports_listen(file: Path, manager: Manager) -> None:
    (file.parent / "hold").touch()
    async with started("serve", file, folder=file.parent, env=environment(manager)) as served:
        await manager.said("EXTEND_TIMEOUT_USEC=")
        await until((file.parent / "environment").exists)
        served.signal(signal.SIGHUP)  # is no reload yet, so it must not make the node ready
        await until(lambda: "SIGHUP" in served.log)
        assert not {"READY=1", "RELOADING=1"} & {*manager.lines}
        (file.parent / "hold").unlink()
        await manager.said("READY=1")
        await until(lambda: served.url)


async def test_a_node_that_is_stopped_while_it_starts_says_so_and_asks_for_little_time(
    file: Path, manager: Manager
) -> None:
    (file.parent / "hold").touch()
    async with started("serve", file, folder=file.parent, env=environment(manager)) as served:
        await until((file.parent / "environment").exists)
        served.signal(signal.SIGTERM)
        await manager.said("STOPPING=1")
        await served.ended()
    assert not manager.has("READY=1")


async def test_time_is_asked_for_no_longer_than_a_start_or_a_stop_may_take(tmp_path: Path) -> None:
    with (
        closing(Manager(str(tmp_path / "notify"))) as manager,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
    ):
        systemd = Systemd(manager.address)
        systemd._socket = sender
        for state, asked in (("ready", False), ("starting", True), ("stopping", True)):
            systemd._state = state
            systemd._beat()
            assert manager.has("EXTEND_TIMEOUT_USEC=30000000") == asked
            manager.reports.clear()
        systemd._extended_until = time.monotonic()
        systemd._beat()
        assert not manager.has("EXTEND_TIMEOUT_USEC")
        systemd.stopping(5)
        assert systemd._extended_until - time.monotonic() <= 5 + STOP_SECONDS


async def test_sighup_is_a_reload(file: Path, manager: Manager) -> None:
    async with reporting(file, manager) as (served, _):
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        served.signal(signal.SIGHUP)
        await manager.said("READY=1", times=2)
        reload = next(report for report in manager.reports if report.startswith("RELOADING=1"))
        microseconds = int(reload.partition("MONOTONIC_USEC=")[2])
        assert before <= microseconds <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        assert "READY=1" in manager.reports[manager.reports.index(reload) + 1 :]


async def test_the_watchdog_hears_of_a_loop_that_goes_round_and_not_of_one_that_is_stuck(
    tmp_path: Path, manager: Manager
) -> None:
    (tmp_path / "stuck.py").write_text(STUCK)
    file = write(tmp_path, STUCK_NODE)
    async with reporting(file, manager, WATCHDOG_USEC="200000") as (_, api):
        await manager.said("WATCHDOG=1", times=5)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(api.submit, "stuck")
            await until((tmp_path / "stuck").exists)
            manager.read()
            number = len(manager.reports)
            await anyio.sleep(0.6)  # three times the time of the watchdog
            assert len(manager.read()) == number
            (tmp_path / "go").touch()
            await until(lambda: len(manager.read()) > number)


@pytest.mark.parametrize(("usec", "pid"), [("200000", "1"), ("0", ""), ("-5", ""), ("soon", ""), ("9" * 5000, "")])
async def test_a_watchdog_of_another_process_or_of_no_time_hears_nothing(usec: str, pid: str, tmp_path: Path) -> None:
    systemd = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}
    assert not Systemd.of_the_environment(systemd)._watched
    assert systemd == {}


async def test_containers_do_not_see_the_manager(file: Path, manager: Manager) -> None:
    async with reporting(file, manager, WATCHDOG_USEC="60000000", WATCHDOG_PID=str(os.getpid())):
        names = (file.parent / "environment").read_text().split()
        assert "PORT" in names
        assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & {*names}


async def test_a_manager_that_is_gone_harms_nothing(file: Path, tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    async with reporting(file, manager, WATCHDOG_USEC="100000") as (served, api):
        manager.close()
        served.signal(signal.SIGHUP)
        await until(lambda: "SIGHUP" in served.log)
        os.unlink(manager.address)
        assert (await api.get("/health")).status == 200
        served.signal(signal.SIGTERM)
        assert await served.ended() == 0
        assert "Traceback" not in served.log


@pytest.mark.parametrize(
    "address", ["/nowhere/notify", "@" + "x" * 500, "vsock:2:1234", "relative", "@", "", "/\udcff"]
)
async def test_an_address_at_which_nobody_listens_harms_nothing(address: str, tmp_path: Path) -> None:
    file = write(tmp_path, '[store]\nuse = "memory"\n[[transports]]\nuse = "asgi"\nbind = "127.0.0.1:0"\n')
    async with serve(file, env=environment(address)) as (served, _):
        served.signal(signal.SIGTERM)
        assert await served.ended() == 0
        assert "Traceback" not in served.log


async def test_reports_that_must_arrive_wait_for_a_manager_that_is_busy(tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    systemd = Systemd(manager.address)
    with ExitStack() as stack:
        stack.callback(manager.close)
        systemd._socket = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        systemd._socket.setblocking(False)
        systemd.ready()
        assert manager.lines == ["READY=1"]
        manager.reports.clear()
        while fill(manager.address, stack):
            pass
        systemd.reloaded()
        systemd.stopping(1)
        for _ in range(2 * MOST_UNSENT):
            systemd._beat()
        assert set(manager.lines) == {"FILLED=1"}
        systemd._beat()
        wanted = [line for line in manager.lines if line.partition("=")[0] not in ("FILLED", "MONOTONIC_USEC")]
        assert wanted == ["RELOADING=1", "READY=1", "STOPPING=1", "EXTEND_TIMEOUT_USEC=30000000"]


def fill(address: str, stack: ExitStack) -> bool:
    """Send until no more fits, from a socket of its own, since each has room for some only. Return True if any fits."""
    filler = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    filler.setblocking(False)
    sent = 0
    with suppress(BlockingIOError):
        while True:
            filler.sendto(b"FILLED=1", address)
            sent += 1
    return sent > 0


# -- the unit ---------------------------------------------------------------------------------------


def settings() -> dict[str, str]:
    lines = [line for line in UNIT.read_text(encoding="utf-8").splitlines() if "=" in line and line[0] != "#"]
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def test_the_unit_fits_what_the_node_does() -> None:
    found = settings()
    assert found["Type"] == "notify"
    assert found["KillMode"] == "mixed"  # containers get no signal of their own, so running jobs can end
    assert found["RestartPreventExitStatus"] == "3"  # a node file that does not compose will not by itself
    assert found["ExecReload"] == "/bin/kill -HUP $MAINPID"


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    if not (analyze := shutil.which("systemd-analyze")):
        pytest.skip("systemd-analyze is not installed: install systemd")
    unit = tmp_path / "nodekit.service"
    text = UNIT.read_text(encoding="utf-8")
    for key in ("ExecStart", "ExecReload"):  # a small system may have neither program
        text = text.replace(settings()[key].partition(" ")[0], "/bin/true")
    unit.write_text(text, encoding="utf-8")
    done = subprocess.run([analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
