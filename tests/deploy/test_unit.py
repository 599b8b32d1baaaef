"""The unit of `deploy/` under a real systemd, which the tests bring up; they are skipped where that is impossible."""

import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from booted import USER_ID, Booted, NoSystemd, booted, until
from http_api import free_port

NODE = """
[node]
drain_seconds = 60

[store]
use = "sqlite"
path = "/var/lib/nodekit/jobs.db"

[[runners]]
use = "process"

[[runners.containers]]
id = "slow"
command = ["{python}", "/opt/etc/slow.py"]

[[runners]]
use = "function"

[[runners.containers]]
id = "stuck"
call = "stuck.py:stuck"

[[transports]]
use = "asgi"
bind = "127.0.0.1:{port}"
"""
PLACES = ["/", "/etc", "/opt", "/opt/etc", "/usr/lib", "/var", "/var/lib", "/var/log", "/sys/fs/cgroup"]
SLOW = (
    f"""
PLACES = {PLACES!r}
"""
    + """
import json, os, pathlib, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

folder = pathlib.Path("/opt/etc")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply()

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        while not (folder / "go").exists():
            time.sleep(0.02)
        self.reply()

    def reply(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


def writable(place):
    try:
        pathlib.Path(place, "of-a-container").touch()
    except OSError:
        return False
    return True


rights = [line for line in open("/proc/self/status") if line.split(":")[0] in ("CapEff", "CapBnd", "NoNewPrivs", "Uid")]
found = {"rights": [line.split()[:2] for line in rights], "writable": [place for place in PLACES if writable(place)]}
pathlib.Path("/var/lib/nodekit/found").write_text(json.dumps(found))
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
)
STUCK = """
import pathlib, time


async def stuck(data):
    mark = pathlib.Path("/var/lib/nodekit/stuck")
    if not mark.exists():  # the job runs again after the restart
        mark.touch()
        time.sleep(3600)
    return 1
"""


@pytest.fixture(scope="module")
def systemd() -> Iterator[Booted]:
    try:
        with booted() as found:
            yield found
    except NoSystemd as error:  # also with CI=true: a container rarely has one, and the protocol is tested everywhere
        pytest.skip(str(error))


class Unit:
    """The unit `nodekit`, and its node."""

    def __init__(self, systemd: Booted) -> None:
        self.systemd = systemd
        self.port = free_port()
        self.node_file = NODE.format(python=sys.executable, port=self.port)
        for name, text in (("slow.py", SLOW), ("stuck.py", STUCK)):
            (systemd.etc / name).write_text(text)
        (systemd.etc / "go").unlink(missing_ok=True)

    def start(self, more: str = "") -> None:
        self.systemd.set_up(self.node_file, more)
        self.systemd.run("systemctl", "start", "nodekit")

    def ask(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", data, timeout=60) as reply:
            return json.loads(reply.read())

    def submit(self, container: str) -> str:
        id = self.ask("/api/jobs", {"containers": [container], "data": {}})["id"]
        assert isinstance(id, str)
        return id


@pytest.fixture
def unit(systemd: Booted) -> Iterator[Unit]:
    yield Unit(systemd)
    systemd.tried("systemctl", "kill", "--signal=KILL", "nodekit")
    systemd.tried("systemctl", "stop", "nodekit")
    systemd.tried("systemctl", "reset-failed", "nodekit")
    systemd.tried("rm", "-rf", "/var/lib/nodekit")


def test_a_node_starts_reloads_and_drains_and_its_containers_get_no_signal(unit: Unit) -> None:
    systemd = unit.systemd
    unit.start()
    assert unit.ask("/health") == {"status": "healthy"}  # `systemctl start` has waited for that
    id = unit.submit("slow")
    until(lambda: systemd.shown("StatusText") == "1 running, 0 queued", "the status says that a job runs")
    systemd.run("systemctl", "reload", "nodekit")
    until(lambda: "SIGHUP" in systemd.log, "the node reloads")
    assert systemd.shown("ActiveState") == "active"
    systemd.run("systemctl", "stop", "--no-block", "nodekit")
    until(lambda: systemd.shown("StatusText") == "draining: 1 left", "the status says that the node drains")
    assert unit.ask(f"/api/jobs?id={id}")[0]["status"] == "running"
    (systemd.etc / "go").touch()
    until(lambda: systemd.shown("ActiveState") == "inactive", "the node ends")
    assert systemd.shown("Result") == "success"
    assert systemd.processes == []
    systemd.run("systemctl", "start", "nodekit")
    assert unit.ask(f"/api/jobs?id={id}")[0]["status"] == "success"


def test_a_node_whose_loop_is_stuck_is_started_again_and_leaves_no_container(unit: Unit) -> None:
    systemd = unit.systemd
    unit.start("WatchdogSec=2")
    before = systemd.processes
    assert len(before) > 1  # the node and its container
    id = unit.submit("stuck")
    until(lambda: systemd.shown("NRestarts") == "1", "systemd ends the node and starts it again")
    until(lambda: systemd.shown("ActiveState") == "active", "the node is ready again")
    assert not {*before} & {*systemd.processes}
    until(lambda: unit.ask(f"/api/jobs?id={id}")[0]["status"] == "success", "the job goes on")


def test_a_killed_node_is_started_again_and_one_with_a_bad_node_file_is_not(unit: Unit) -> None:
    systemd = unit.systemd
    unit.start()
    before = systemd.processes
    systemd.run("kill", "-KILL", systemd.shown("MainPID"))
    until(lambda: systemd.shown("NRestarts") == "1" and systemd.shown("ActiveState") == "active", "it starts again")
    assert not {*before} & {*systemd.processes}
    systemd.run("systemctl", "stop", "nodekit")
    unit.node_file = unit.node_file.replace("drain_seconds", "drain_secunds")
    systemd.set_up(unit.node_file)
    assert systemd.tried("systemctl", "start", "nodekit").returncode != 0
    assert (systemd.shown("ExecMainStatus"), systemd.shown("ActiveState")) == ("3", "failed")


def test_a_container_has_no_rights_and_writes_to_the_folder_of_the_node_only(unit: Unit) -> None:
    systemd = unit.systemd
    unit.start()
    found = json.loads(systemd.run("cat", "/var/lib/nodekit/found"))
    assert found["writable"] == []
    rights = {name: value.lstrip("0") for name, value in found["rights"]}
    assert rights == {"Uid:": str(USER_ID), "CapEff:": "", "CapBnd:": "", "NoNewPrivs:": "1"}


DOCKER_NODE = """
[store]
use = "memory"

[[runners]]
use = "docker"
host = "unix://{socket}"
state = "/var/lib/nodekit/docker"

[[runners.containers]]
id = "echo"
image = "{image}"
command = ["python3", "-u", "-c", {program}]

[[transports]]
use = "asgi"
bind = "127.0.0.1:{port}"
"""
ECHO = """
import os
from http.server import BaseHTTPRequestHandler, HTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply()

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.reply()

    def reply(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")


HTTPServer(("", int(os.environ.get("PORT", 3000))), Handler).serve_forever()
"""


def test_a_node_may_use_docker_and_leaves_no_container(engine: Any, systemd: Booted, unit: Unit) -> None:
    socket = engine.host.removeprefix("unix://")
    if not socket.startswith("/"):
        pytest.skip(f"the engine is at {engine.host}, and the test passes on a socket")
    values = {"socket": socket, "image": engine.images.python, "program": json.dumps(ECHO), "port": unit.port}
    unit.node_file = DOCKER_NODE.format(**values)
    unit.start(f"SupplementaryGroups={os.stat(socket).st_gid}\nBindPaths={socket}")
    id = unit.submit("echo")
    until(lambda: unit.ask(f"/api/jobs?id={id}")[0]["status"] == "success", "a container answers")
    labelled = {"all": True, "filters": {"label": "nodekit.node"}, "ignore_removed": True}
    assert engine.client.containers.list(**labelled) != []
    systemd.run("systemctl", "stop", "nodekit")
    assert systemd.shown("Result") == "success"
    assert engine.client.containers.list(**labelled) == []
