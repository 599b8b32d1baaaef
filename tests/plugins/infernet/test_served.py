"""`nodekit serve config.json` with every key set, over a real socket: no edit, real containers that run elsewhere."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from components import until
from http_api import Api, free_port
from infernet_configs import BEARER, SECRETS, WALLET_KEY, full, written
from redis_server import RedisServer
from served import nodekit, serve, started

pytestmark = pytest.mark.anyio

CONTAINER = """
import http.server, json

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply({})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.reply({"said": body, "authorization": self.headers.get("Authorization")})

    def reply(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def port() -> Iterator[int]:
    """Yield the port of a container."""
    process = subprocess.Popen([sys.executable, "-c", CONTAINER], stdout=subprocess.PIPE)
    assert process.stdout
    with closing(process.stdout):
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def file(tmp_path: Path, port: int) -> Path:
    """Write a file with every key: a container by port, one by URL with a bearer, and one for certain clients only."""
    by_port = {"id": "near", "url": "", "bearer": "", "port": port}
    by_url = {"id": "far", "url": f"http://127.0.0.1:{port}", "external": False}
    others = {"id": "others", "url": f"http://127.0.0.1:{port}", "allowed_ips": ["10.0.0.1/8"]}
    return written(tmp_path, full(by_port, by_url, others, managed=False, port=free_port(), redis=None))


async def job(api: Api, *containers: str, **data: Any) -> Any:
    """Return a job's result with one request: the file allows few."""
    answer = await api.post("/api/jobs", {"containers": containers, "data": data}, headers={"Prefer": "wait=30"})
    assert answer.status == 200, answer.body
    assert answer.json["status"] == "success", answer.body
    return answer.json


async def output(api: Api, *containers: str, **data: Any) -> Any:
    return (await job(api, *containers, **data))["result"]["output"]


CHAIN_ADDRESS = "0x3a7034a48fffb5593dd99a508a4738f216bdc66b"
"""The address of the account in the file, which `nodekit-chain` serves: its endpoint does not answer here."""


async def test_jobs_are_served_with_no_edit(file: Path) -> None:
    async with serve(file, "--log-level", "debug") as (served, api):
        assert api.url == f"http://0.0.0.0:{json.loads(file.read_text())['server']['port']}"
        info = (await api.get("/info")).json
        assert [(one["id"], one["external"]) for one in info["containers"]] == [
            ("near", True),
            ("far", False),
            ("others", True),
        ]
        assert info["containers"][0]["description"] == "says hello"
        assert info["chain"] == {"enabled": True, "address": CHAIN_ADDRESS}
        given = await output(api, "near", text="hello")
        assert given["authorization"] is None
        assert given["said"] == {"source": 1, "destination": 1, "data": {"text": "hello"}, "requires_proof": False}
        given = await output(api, "near", "far", text="hello")
        assert given["authorization"] == f"Bearer {BEARER}"
        assert given["said"]["data"]["said"]["data"] == {"text": "hello"}
        served.signal(signal.SIGTERM)
        assert await served.ended() == 0
    for log in (served.log, (file.parent / "infernet.log").read_text()):
        (first,) = [line for line in log.splitlines() if " WARNING nodekit: " in line]
        assert log.startswith(first)
        assert "something else here than in Infernet" in first
        assert [secret for secret in SECRETS if secret in log] == []


async def test_the_rules_of_containers_and_the_limit_of_requests_hold(file: Path) -> None:
    async with serve(file) as (_, api):
        for containers, reason in (
            (["far"], "First container must be external"),
            (["others"], "Container not allowed for address"),
            (["nothing"], "Container not supported"),
        ):
            answer = await api.post("/api/jobs", {"containers": containers, "data": {}})
            assert (answer.status, answer.error) == (405, reason)
        assert [(await api.get("/info")).status for _ in range(38)] == [200] * 37 + [429]
        assert (await api.get("/health")).status == 200


async def test_jobs_are_kept_beside_the_file_wherever_it_is_started_and_survive_a_migration(
    file: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    async with serve(file, "--bind", "127.0.0.1:0") as (_, api):
        assert api.url.startswith("http://127.0.0.1:")
        id = (await job(api, "near", text="before"))["id"]
    assert {"jobs.db", "infernet.log"} <= set(os.listdir(file.parent))
    assert stat.S_IMODE((file.parent / "jobs.db").stat().st_mode) == 0o600
    assert os.listdir() == []
    (file.parent / "node.toml").write_text(nodekit("migrate", file).stdout, encoding="utf-8")
    for name in ("BEARER_FAR", "BEARER_OTHERS"):
        monkeypatch.setenv(name, BEARER)
    monkeypatch.setenv("CHAIN_PRIVATE_KEY", WALLET_KEY)
    async with serve(file.parent / "node.toml") as (served, api):
        assert (await api.get(f"/api/jobs?id={id}")).json[0]["status"] == "success"
        assert (await output(api, "near", "far", text="after"))["authorization"] == f"Bearer {BEARER}"
        assert "listens on all addresses" not in served.log


async def test_jobs_are_kept_in_the_redis_of_the_file_and_survive_a_migration(
    tmp_path: Path, port: int, redis_server: RedisServer
) -> None:
    assert redis_server.call("ACL", "SETUSER", "me", "on", ">hunter2@/", "~*", "&*", "+@all") == b"+OK\r\n"
    server = {"host": "127.0.0.1", "port": redis_server.port, "username": "me", "password": "hunter2@/"}
    near = {"id": "near", "url": "", "bearer": "", "port": port}
    file = written(tmp_path, full(near, managed=False, port=free_port(), redis=server))
    async with serve(file) as (first, api):
        id = (await job(api, "near", text="before"))["id"]
    assert redis_server.call("EXISTS", f"{{nodekit}}:job:{id}") == b":1\r\n"
    assert nodekit("migrate", file, "--output", tmp_path / "node.toml").returncode == 0
    async with serve(tmp_path / "node.toml") as (second, api):
        assert (await api.get(f"/api/jobs?id={id}")).json[0]["status"] == "success"
    for log in (first.log, second.log):
        assert "durability is none, and appendonly is no: if Redis ends, all jobs may be lost" in log
        assert "hunter2" not in log
    assert "jobs.db" not in os.listdir(tmp_path)


async def test_a_redis_that_cannot_be_reached_ends_the_start_with_its_reason(tmp_path: Path) -> None:
    config = {"server": {"port": free_port()}, "manage_containers": False, "redis": {"host": "127.0.0.1", "port": 1}}
    done = nodekit("serve", written(tmp_path, config))
    assert done.returncode == 1
    assert "cannot reach Redis" in done.stderr


async def test_infernet_s_environment_variable_is_honoured(file: Path) -> None:
    env = {**os.environ, "INFERNET_CONFIG_PATH": str(file)}
    async with started("serve", folder=file.parent, env=env) as served:
        await until(lambda: served.url or served.process.poll() is not None)
        assert served.url == f"http://0.0.0.0:{json.loads(file.read_text())['server']['port']}", served.log


def test_a_folder_that_cannot_be_written_is_told_with_places_for_jobs(tmp_path: Path) -> None:
    file = written(tmp_path, {"server": {"port": free_port()}, "manage_containers": False})
    try:
        if subprocess.run(["chattr", "+i", str(tmp_path)], capture_output=True, check=False).returncode:
            pytest.skip("only root on some file systems can make a folder that even root cannot write")
    except FileNotFoundError:
        pytest.skip("there is no chattr")
    try:
        done = nodekit("serve", file)
    finally:
        subprocess.run(["chattr", "-i", str(tmp_path)], check=True)
    assert done.returncode == 1
    assert (
        f"jobs cannot be kept in jobs.db beside this file: this user cannot write there, in {tmp_path}." in done.stderr
    )
    assert f"cannot open {tmp_path}/jobs.db: " in done.stderr
