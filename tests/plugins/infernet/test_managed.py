"""`nodekit serve config.json` where the node starts the containers: every key set, on a real engine."""

import json
import os
import secrets
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import docker.errors
import pytest
from components import until
from docker_runs import aside
from engine.bed import Engine
from http_api import Api, free_port
from infernet_configs import SECRETS, full, written
from served import NODEKIT, Served, started

pytestmark = pytest.mark.anyio

STARTS_SECONDS = 120.0


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


def config(engine: Engine, id: str) -> dict[str, Any]:
    """Write a file with every key set, except those that only a GPU or Infernet's own containers can fill."""
    return full(
        {
            "id": id,
            "image": engine.images.service,
            "port": free_port(),
            "command": "--bind=0.0.0.0:3000 --name 'two words'",
            "env": {"ADD": 5, "FLAG": True, "TEXT": 'quotes " and\nlines', "NOTHING": None},
            "volumes": [f"{id}-data:/data"],
        },
        port=free_port(),
    )


@asynccontextmanager
async def serving(engine: Engine, file: Path) -> AsyncIterator[tuple[Served, Api]]:
    env = {**os.environ, "DOCKER_HOST": engine.host}
    async with started("serve", file, folder=file.parent, env=env) as served:
        await until(lambda: served.url or served.process.poll() is not None, seconds=STARTS_SECONDS)
        assert served.url, served.log
        async with aiohttp.ClientSession() as session:
            yield served, Api(served.url, session)
        served.signal(signal.SIGTERM)
        assert await served.ended() == 0, served.log


async def output(api: Api, id: str, data: Any) -> Any:
    answer = await api.post("/api/jobs", {"containers": [id], "data": data}, headers={"Prefer": "wait=60"})
    assert (answer.status, answer.json["status"]) == (200, "success"), answer.body
    return answer.json["result"]["output"]


def nodekit(*arguments: str | Path, env: dict[str, str]) -> str:
    """Run a command that must succeed; return its standard output."""
    command = [*NODEKIT, *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_every_key_set_serves_jobs_with_no_edit(engine: Engine, id: str, tmp_path: Path) -> None:
    file = written(tmp_path, config(engine, id))
    async with serving(engine, file) as (served, api):
        (shown,) = (await api.get("/info")).json["containers"]
        assert (shown["id"], shown["image"], shown["description"]) == (id, engine.images.service, "says hello")
        assert await output(api, id, {"text": "hello"}) == {"text": "hello"}
        inside = await output(api, id, {"do": "report", "write": ["/data/file"]})
        assert inside["argv"][-3:] == ["--bind=0.0.0.0:3000", "--name", "two words"]
        assert {"ADD": "5", "FLAG": "True", "TEXT": 'quotes " and\nlines'}.items() <= inside["env"].items()
        assert "NOTHING" not in inside["env"]
        assert inside["write"] == {"/data/file": "ok"}
        listed = await aside(lambda: nodekit("containers", file, "--json", env={"DOCKER_HOST": engine.host}))
        assert [(row["id"], row["state"]) for row in json.loads(listed)] == [(id, "running")]
        assert "listening" in await aside(lambda: nodekit("logs", file, id, env={"DOCKER_HOST": engine.host}))
        found = await aside(lambda: engine.client.containers.get(id))
        assert found.attrs["HostConfig"]["PortBindings"]["3000/tcp"][0]["HostIp"] == "127.0.0.1"
    assert [secret for secret in SECRETS if secret in served.log + (tmp_path / "infernet.log").read_text()] == []
    with pytest.raises(docker.errors.NotFound):
        await aside(lambda: engine.client.containers.get(id))


async def test_a_name_that_somebody_has_is_an_error_with_the_cure(engine: Engine, id: str, tmp_path: Path) -> None:
    taken = await aside(lambda: engine.client.containers.create(engine.images.service, name=id))
    env = {**os.environ, "DOCKER_HOST": engine.host}
    async with started("serve", written(tmp_path, config(engine, id)), folder=tmp_path, env=env) as served:
        assert await served.ended() == 1
        assert id in served.log
        assert "docker rm" in served.log or "remove it" in served.log
        assert "Traceback" not in served.log
    await aside(taken.reload)  # it is unchanged
    assert taken.status == "created"


async def test_no_gpu_where_one_is_asked_for_is_said(engine: Engine, id: str, tmp_path: Path) -> None:
    asked = config(engine, id)
    asked["containers"][0]["gpu"] = True
    info = await aside(engine.client.info)
    if "nvidia" in (info.get("Runtimes") or {}):
        pytest.skip("this engine has GPUs")
    env = {**os.environ, "DOCKER_HOST": engine.host}
    async with started("serve", written(tmp_path, asked), folder=tmp_path, env=env) as served:
        assert await served.ended() == 1
        assert "NVIDIA Container Toolkit" in served.log
