"""`nodekit serve config.json` where the node starts the containers: every key set, on a real engine."""

import json
import secrets
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker.errors
import pytest
from docker_runs import aside
from engine.bed import Engine
from http_api import Api, free_port
from infernet_configs import SECRETS, full, written
from redis_server import RedisServer
from served import nodekit, serve

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def id(engine: Engine) -> Iterator[str]:
    """Yield an id of a container; its name is unused on the engine. Remove any container of that name at the end."""
    id = f"infernet-{secrets.token_hex(4)}"
    yield id
    with suppress(docker.errors.NotFound):
        engine.client.containers.get(id).remove(force=True, v=True)
    with suppress(docker.errors.NotFound):
        engine.client.volumes.get(f"{id}-data").remove(force=True)


async def output(api: Api, id: str, data: Any) -> Any:
    answer = await api.post("/api/jobs", {"containers": [id], "data": data}, headers={"Prefer": "wait=60"})
    assert (answer.status, answer.json["status"]) == (200, "success"), answer.body
    return answer.json["result"]["output"]


async def test_every_key_set_serves_jobs_with_no_edit(
    engine: Engine, id: str, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every key is set, except those that only a GPU or Infernet's own containers can fill."""
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    entry = {"id": id, "image": engine.images.service, "port": free_port(), "volumes": [f"{id}-data:/data"]}
    server = {"host": "127.0.0.1", "port": redis_server.port}
    file = written(tmp_path, full(entry, port=free_port(), redis=server))
    async with serve(file) as (served, api):
        (shown,) = (await api.get("/info")).json["containers"]
        assert (shown["id"], shown["image"], shown["description"]) == (id, engine.images.service, "says hello")
        assert await output(api, id, {"text": "hello"}) == {"text": "hello"}
        inside = await output(api, id, {"do": "report", "write": ["/data/file"]})
        assert inside["argv"][-3:] == ["--bind=0.0.0.0:3000", "--name", "two words"]
        assert {"NUMBER": "3", "FLAG": "True", "TEXT": 'quotes " and\nlines'}.items() <= inside["env"].items()
        assert "NOTHING" not in inside["env"]
        assert inside["write"] == {"/data/file": "ok"}
        listed = await aside(lambda: nodekit("containers", file, "--json"))
        assert [(row["id"], row["state"]) for row in json.loads(listed.stdout)] == [(id, "running")]
        assert "listening" in (await aside(lambda: nodekit("logs", file, id))).stdout
        found = await aside(lambda: engine.client.containers.get(id))
        assert found.attrs["HostConfig"]["PortBindings"]["3000/tcp"][0]["HostIp"] == "127.0.0.1"
        served.signal(signal.SIGTERM)
        assert await served.ended() == 0, served.log
    assert [secret for secret in SECRETS if secret in served.log + (tmp_path / "infernet.log").read_text()] == []
    with pytest.raises(docker.errors.NotFound):
        await aside(lambda: engine.client.containers.get(id))
