"""The commands `nodekit check` and `nodekit serve`."""

import asyncio
import re
import signal
from pathlib import Path

import pytest
from components import until
from http_api import free_port
from node_files import NODE_FILE, SERVED, SLOW, changed, write
from planted import nodekit
from served import nodekit as nodekit_elsewhere
from served import serve, started

pytestmark = pytest.mark.anyio


FUNCTION = """
[[runners]]
use = "function"

[[runners.containers]]
id = "slow"
call = "slow.py:slow"
"""

STUBBORN = """
[[runners]]
use = "process"

[[runners.containers]]
id = "stubborn"
command = ["python3", "stubborn.py"]
stop_seconds = 2
"""

ANSWERING = """
import http.server, os

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "slow.py").write_text(SLOW)
    return write(tmp_path, SERVED)


# -- check --------------------------------------------------------------------------------------------


def test_check_says_ok_of_the_documented_node_file_and_starts_nothing(tmp_path: Path) -> None:
    write(tmp_path, NODE_FILE)
    done = nodekit(tmp_path, "check", "node.toml")
    assert (done.returncode, done.stderr) == (0, "")
    assert "ok (2 containers)" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["node.toml"]


def test_check_shows_a_line_per_problem_and_exits_with_3(tmp_path: Path) -> None:
    text = changed('use = "sqlite"', 'use = "sqlit"', changed("concurrency = 64", "concurency = 64"))
    done = nodekit(tmp_path, "check", write(tmp_path, text))
    assert (done.returncode, done.stdout) == (3, "")
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"{tmp_path / 'node.toml'}: ") for line in lines)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_file_that_is_not_there_is_3_and_a_wrong_command_line_2(tmp_path: Path, command: str) -> None:
    done = nodekit(tmp_path, command, "nothing.toml")
    assert (done.returncode, "cannot be read" in done.stderr) == (3, True)
    for wrong in ([command], [command, "--nonsense", "x"], ["nonsense"]):
        assert nodekit(tmp_path, *wrong).returncode == 2


def test_help_and_version_are_there(tmp_path: Path) -> None:
    shown = nodekit_elsewhere("--help").stdout
    for command in ("serve", "check"):
        assert command in shown
        assert nodekit(tmp_path, command, "--help").returncode == 0
    assert nodekit_elsewhere("--version").stdout.startswith("nodekit, version ")


# -- serve --------------------------------------------------------------------------------------------


async def test_serve_says_where_it_listens_on_a_port_of_its_own_and_drains_on_sigterm(file: Path) -> None:
    folder = file.parent
    begun, go = folder / "begun", folder / "go"
    async with serve(file) as (served, api):
        assert not api.url.endswith(":0")
        id = await api.submit("slow", started=str(begun), go=str(go))
        await until(begun.exists)
        served.signal(signal.SIGTERM)
        await until(lambda: "draining" in served.log)
        refused = await api.post("/api/jobs", {"containers": ["slow"], "data": {}})
        assert (refused.status, int(refused.headers["Retry-After"]) >= 1) == (503, True)
        assert (await api.get(f"/api/jobs?id={id}")).json[0]["status"] == "running"
        go.touch()
        assert await served.ended() == 0
        assert "Traceback" not in served.log
    async with serve(file) as (served, api):
        (job,) = (await api.get(f"/api/jobs?id={id}")).json
        assert job["status"] == "success"
        served.signal(signal.SIGINT)
        assert await served.ended() == 0


async def test_signals_do_not_cut_short_how_parts_are_left(tmp_path: Path) -> None:
    """The component here is a process that ends only when it is killed, after its `stop_seconds`."""
    (tmp_path / "stubborn.py").write_text("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + ANSWERING)
    file = write(tmp_path, changed(FUNCTION, STUBBORN, SERVED))
    async with serve(file) as (served, _):
        served.signal(signal.SIGTERM)
        await until(lambda: "draining" in served.log)
        await asyncio.sleep(1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGINT):
            lines = served.log.count("at once")
            served.signal(number)
            await until(lambda lines=lines: served.log.count("at once") > lines)
        assert await served.ended() == 0
        assert "Traceback" not in served.log


async def test_a_second_signal_stops_at_once_and_nothing_is_lost(file: Path) -> None:
    folder = file.parent
    begun, go = folder / "begun", folder / "go"
    async with serve(file) as (served, api):
        ids = [await api.submit("slow", started=str(begun), go=str(go)) for _ in range(100)]
        await until(begun.exists)
        served.signal(signal.SIGTERM)
        await until(lambda: "draining" in served.log)
        for number in (signal.SIGINT, signal.SIGTERM):  # as wrappers repeat them
            served.signal(number)
            await until(lambda number=number: f"{number.name}: the same again" in served.log)
        assert "stopping at once" not in served.log
        assert served.process.poll() is None
        await asyncio.sleep(1)
        served.signal(signal.SIGTERM)
        assert await served.ended() == 0
        assert "stopping at once" in served.log
        assert "Traceback" not in served.log
    go.touch()
    async with serve(file) as (_, api):
        assert {job["status"] for job in await api.results(*ids)} == {"success"}


async def test_sighup_ends_nothing(file: Path) -> None:
    async with serve(file) as (served, api):
        for number in range(1, 4):
            served.signal(signal.SIGHUP)
            await until(lambda number=number: served.log.count("SIGHUP: opens no log file anew") == number)
        assert (await api.get("/health")).status == 200
        served.signal(signal.SIGTERM)
        assert await served.ended() == 0


async def test_bind_listens_elsewhere(file: Path) -> None:
    port = free_port()
    async with serve(file, "--bind", f"127.0.0.1:{port}") as (_, api):
        assert api.url == f"http://127.0.0.1:{port}"
        assert (await api.get("/health")).status == 200


BAD = """
[[runners]]
use = "process"

[[runners.containers]]
id = "{id}"
command = ["sh", "-c", "echo word of {id}; exit 7"]
"""


async def test_every_container_that_does_not_start_is_told_with_its_place_in_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, '[store]\nuse = "memory"\n' + BAD.format(id="a") + BAD.format(id="b"))
    async with started("serve", file, folder=tmp_path) as process:
        assert await process.ended() == 1
    for number, id in enumerate("ab"):
        where = f"nodekit: {file}: runners[{number}].containers[0]: "
        assert f"{where}container '{id}' did not start: its process exited with code 7" in process.log
        assert f"  | word of {id}\n" in process.log
    assert "Traceback" not in process.log


async def test_a_port_that_is_taken_is_1_with_one_line_and_no_traceback(file: Path) -> None:
    async with serve(file) as (served, api):
        other = file.parent / "other"
        other.mkdir()
        (other / "slow.py").write_text(SLOW)
        taken = write(other, SERVED.replace("127.0.0.1:0", api.url.removeprefix("http://")))
        async with started("serve", taken, folder=other) as second:
            assert await second.ended() == 1
            bind = taken.read_text().partition('bind = "')[2].partition('"')[0]
            cure = rf"process {served.process.pid} \(.+\) has it; end that one, or write another address in `bind`"
            assert re.search(rf"cannot listen on {bind}: Address already in use; {cure}", second.log)
            assert "Traceback" not in second.log
            assert not (other / "jobs.db").exists()  # nothing was opened or started
            assert second.url is None


@pytest.mark.parametrize(
    ("bind", "words"),
    [("nonsense", "host:port"), ("127.0.0.1:99999", "from 0 (a free one) to 65535"), ("unix:", "path")],
)
def test_a_wrong_bind_is_a_mistake_of_the_command_line(file: Path, bind: str, words: str) -> None:
    done = nodekit(file.parent, "serve", file, "--bind", bind)
    assert done.returncode == 2
    assert "--bind" in done.stderr
    assert words in done.stderr


def test_bind_needs_one_transport(tmp_path: Path) -> None:
    done = nodekit(tmp_path, "serve", write(tmp_path, '[store]\nuse = "memory"\n'), "--bind", "127.0.0.1:0")
    assert (done.returncode, "transports" in done.stderr) == (3, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--no-such-option",),
        ("no-such-command",),
        ("serve", "--no-such-option"),
        ("store", "check"),
        ("store", "no-such-command"),
        ("job", "submit", "a", "--data", "1"),
        ("config", "schema", "--output", "missing/schema.json"),
        ("plugins", "show", "missing"),
    ],
    ids=" ".join,
)
def test_errors_have_one_form_whichever_command_they_come_from(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = nodekit(tmp_path, *arguments)
    assert done.returncode in (1, 2)
    *usage, error = done.stderr.splitlines()
    assert error.startswith("nodekit: ")
    assert not [line for line in usage if line and not line.startswith(("Usage: ", "Try '"))]


def test_an_error_does_not_act_on_a_terminal(tmp_path: Path) -> None:
    done = nodekit(tmp_path, "config", "schema", "--output", "\x1b[2J/schema.json")
    assert (done.returncode, done.stderr.startswith("nodekit: \\x1b[2J/schema.json cannot be")) == (1, True)
