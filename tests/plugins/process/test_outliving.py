"""Nothing that a container started outlives its node, however the node ends. `make drills` kills more nodes."""

import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from uuid import uuid4

import aiohttp
import anyio
import pytest
from chance import SEED
from components import until
from http_api import Api
from served import serve
from shapes import SHAPES, children, living, marked, tables
from witnessed import Witnessed, witnessed

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="only Linux tells a process of all its descendants"),
]

KILLS = int(os.environ.get("DRILL_KILLS", "1"))
ALL = ["shell", *SHAPES]

NODE_FILE = """
[node]
drain_seconds = 1

[store]
use = "sqlite"
path = "jobs.db"

[[runners]]
use = "process"
{tables}
[[transports]]
use = "asgi"
bind = "127.0.0.1:0"
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def mark() -> str:
    return f"mark-{uuid4().hex}"


def commands(served: Witnessed) -> set[int]:
    """Return the pids of the containers that have answered so far."""
    return set(map(int, re.findall(r" answers at \S+ \(pid (\d+)\)", served.log)))


@asynccontextmanager
async def node(folder: Path, mark: str, *shapes: str, is_up: bool = True) -> AsyncIterator[Witnessed]:
    """Run a node with containers of these shapes; yield it once they answer, if `is_up`."""
    file = folder / "node.toml"
    file.write_text(NODE_FILE.format(tables=tables(shapes or ALL, mark)))
    async with witnessed(file, is_up=is_up) as served:
        yield served


async def test_nothing_is_left_of_containers_of_any_shape_when_their_node_is_killed(tmp_path: Path, mark: str) -> None:
    pauses, longest, most = Random(SEED), 0.0, 0
    for _ in range(KILLS):
        async with node(tmp_path, mark) as served:
            await anyio.sleep(pauses.uniform(0, 1))
            most = max(most, len(marked(mark)))
            served.signal(signal.SIGKILL)
            await served.nothing_is_left()
            longest = max(longest, served.seconds)
    print(f"\n{KILLS} kills, at most {most} processes, all gone within {longest:.2f} s")
    assert most > len(ALL)


async def test_nothing_is_left_when_a_node_is_killed_while_its_containers_start(tmp_path: Path, mark: str) -> None:
    async with node(tmp_path, mark, "daemon", "comet", is_up=False) as served:
        await until(lambda: marked(mark))
        served.signal(signal.SIGKILL)
        await served.nothing_is_left()


async def test_nothing_is_left_after_a_stop(tmp_path: Path, mark: str) -> None:
    async with node(tmp_path, mark) as served:
        served.signal(signal.SIGTERM)
        assert await served.nothing_is_left() == 0
        assert not re.search("Traceback", served.log)


@pytest.mark.parametrize("shape", ["daemon", "comet", "breeder"])
async def test_nothing_is_left_of_a_container_that_has_ended_by_itself(tmp_path: Path, mark: str, shape: str) -> None:
    """A helper survives its container until the node notices, and then is ended like everything else."""
    async with node(tmp_path, mark, shape) as served:
        [supervisor] = served.supervision() - set(children(served.node))
        [command] = commands(served)
        helpers = set(marked(mark)) - {command}
        assert helpers or shape == "comet"  # that one is rarely in a list
        os.kill(command, signal.SIGKILL)
        await until(lambda: not living(helpers | {supervisor}))
        assert living([served.node])
        served.signal(signal.SIGKILL)
        await served.nothing_is_left()


@pytest.mark.parametrize("victim", ["supervisor", "fork server"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
async def test_nothing_is_left_when_one_of_those_who_watch_is_gone(
    tmp_path: Path, mark: str, victim: str, number: signal.Signals
) -> None:
    async with node(tmp_path, mark, "daemon", "deaf", "plain") as served:
        [server] = children(served.node)
        first = set(marked(mark))
        os.kill(server if victim == "fork server" else next(children(server)), number)
        if number is signal.SIGKILL and victim == "fork server":
            await until(lambda: not first & living(first))  # the supervisors notice it
        served.signal(signal.SIGKILL)
        await served.nothing_is_left()


@pytest.mark.parametrize("victim", ["supervisor", "fork server"])
async def test_a_container_ends_and_starts_again_when_one_of_those_who_watch_was_killed(
    tmp_path: Path, mark: str, victim: str
) -> None:
    async with node(tmp_path, mark, "daemon") as served:
        [server] = children(served.node)
        before = set(marked(mark))
        os.kill(server if victim == "fork server" else next(children(server)), signal.SIGKILL)
        await until(lambda: served.log.count(" answers at ") > 1)
        await until(lambda: not living(before))


async def test_containers_stay_while_their_node_is_frozen(tmp_path: Path, mark: str) -> None:
    async with node(tmp_path, mark, "plain", "daemon") as served:
        before = commands(served) | served.supervision()
        served.signal(signal.SIGSTOP)
        await anyio.sleep(0.3)  # nothing tells of what does not happen
        assert living(before) == before
        served.signal(signal.SIGCONT)
        served.signal(signal.SIGTERM)
        assert await served.nothing_is_left() == 0


async def test_those_who_watch_hear_no_signal_to_a_whole_unit(tmp_path: Path, mark: str) -> None:
    async with node(tmp_path, mark, "deaf") as served:
        before = commands(served) | served.supervision()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            for pid in before:
                os.kill(pid, number)
        await anyio.sleep(0.1)  # nothing tells of what does not happen
        assert living(before) == before


async def test_a_process_that_only_forks_and_exits_is_caught(tmp_path: Path, mark: str) -> None:
    """No list of processes has it, most of the time."""
    async with node(tmp_path, mark, "comet") as served:
        for _ in range(3):
            lines = served.log.count(" answers at ")
            [_, command] = re.findall(r"(.*) answers at \S+ \(pid (\d+)\)", served.log)[-1]
            os.kill(int(command), signal.SIGKILL)
            await until(lambda lines=lines: served.log.count(" answers at ") > lines)
        served.signal(signal.SIGKILL)
        await served.nothing_is_left()


async def test_a_node_that_was_killed_leaves_no_stopped_fork_server(tmp_path: Path, mark: str) -> None:
    """A container stops the fork server; the supervisors wake it when they have ended."""
    async with node(tmp_path, mark, "plain") as served:
        [server] = children(served.node)
        os.kill(server, signal.SIGSTOP)
        served.signal(signal.SIGKILL)
        await served.nothing_is_left()


# -- a whole unit is stopped ----------------------------------------------------------------------

SLOW = """
import http.server, os, time, pathlib
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer()
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        pathlib.Path("called").touch()
        while not pathlib.Path("open").exists():
            time.sleep(0.01)
        self.answer()
    def answer(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


@pytest.mark.parametrize("first", ["containers", "node"])
async def test_a_job_goes_on_after_a_restart_if_its_container_was_stopped_together_with_the_node(
    tmp_path: Path, mark: str, first: str
) -> None:
    """So does systemd by default: every process of the unit gets SIGTERM."""
    file = tmp_path / "node.toml"
    (tmp_path / "slow.py").write_text(SLOW)
    table = f'[[runners.containers]]\nid = "slow"\ncommand = ["{sys.executable}", "slow.py", "{mark}"]\n'
    file.write_text(NODE_FILE.format(tables=table))
    async with witnessed(file) as served, aiohttp.ClientSession() as session:
        api = Api(str(served.url), session)
        id = (await api.post("/api/jobs", {"containers": ["slow"], "data": {}})).json["id"]
        await until((tmp_path / "called").exists)
        unit = [served.node, *served.supervision(), *marked(mark)]
        for pid in unit if first == "node" else reversed(unit):
            with suppress(ProcessLookupError):  # a supervisor ends with its container
                os.kill(pid, signal.SIGTERM)
        assert await served.nothing_is_left() == 0, served.log
    (tmp_path / "open").touch()
    async with serve(file) as (_, api):
        [job] = await api.results(id)
        assert job["status"] == "success", job
        attempts = (await api.get(f"/api/jobs/{id}")).json["steps"][0]["attempts"]
        assert [one.get("kind") for one in attempts] == ["interrupted", None]
