"""Nodes on one store, each a process of its own that can be killed, with an engine in another process."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import anyio.to_thread
import pytest
from cluster.engines.kit import PROVIDER
from components import until
from http_api import Api
from planted import plant
from served import Served, nodekit, serve, started

from nodekit.testing import SharedServer

pytestmark = pytest.mark.anyio

NEIGHBOURS = 60
LEASE_SECONDS = 1.0

CONTAINERS = """
import anyio, os, pathlib, signal

async def nap(data):
    await anyio.sleep(data["seconds"])
    return data

async def door(data):
    pathlib.Path(data["knocked"]).touch()
    while not pathlib.Path(data["open"]).exists():
        await anyio.sleep(0.01)
    return data

async def poison(data):
    os.kill(os.getpid(), signal.SIGKILL)
"""

Start: TypeAlias = Callable[..., AbstractAsyncContextManager[tuple[Served, Api]]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SharedServer]:
    with SharedServer(tmp_path / "shared.db", lease_seconds=LEASE_SECONDS) as server:
        yield server


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    plant(tmp_path, "kit-store", {"stores": "kit"}, PROVIDER)
    (tmp_path / "containers.py").write_text(CONTAINERS)
    return {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def start(tmp_path: Path, server: SharedServer, env: dict[str, str]) -> Start:
    def start(name: str, *containers: str) -> AbstractAsyncContextManager[tuple[Served, Api]]:
        return serve(node_file(tmp_path, server, name, *containers), env=env)

    return start


def node_file(folder: Path, server: SharedServer, name: str, *containers: str) -> Path:
    tables = [f'[[runners.containers]]\nid = "{id}"\ncall = "containers.py:{id}"\n' for id in containers]
    file, (host, port) = folder / f"{name}.toml", server.address
    file.write_text(
        f'[node]\nname = "{name}"\ndrain_seconds = 10\n'
        f'[node.each_client]\nconcurrency = 64\n[store]\nuse = "kit"\nhost = "{host}"\nport = {port}\n'
        f'[[runners]]\nuse = "function"\n{"".join(tables)}\n[[transports]]\nuse = "asgi"\nbind = "127.0.0.1:0"\n'
    )
    return file


async def submit(api: Api, data: dict[str, Any], *containers: str, **headers: str) -> str:
    answer = await api.call("POST", "/api/jobs", json={"containers": containers, "data": data}, headers=headers)
    assert answer.status == 200, answer.body
    return str(answer.json["id"])


async def results(api: Api, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Wait for jobs at a node, and return their results."""
    with anyio.fail_after(60):
        while True:
            query = "&".join(f"id={id}" for id in ids)
            jobs: list[dict[str, Any]] = (await api.call("GET", f"/api/jobs?{query}&wait=10")).json
            if all(job["status"] != "running" for job in jobs):
                return jobs


async def test_a_job_that_kills_three_processes_fails_and_the_sixty_beside_it_succeed(
    tmp_path: Path, start: Start, server: SharedServer, env: dict[str, str]
) -> None:
    data = {"knocked": str(tmp_path / "knocked"), "open": str(tmp_path / "open")}
    async with AsyncExitStack() as stack:
        victim, api = await stack.enter_async_context(start("n0", "nap", "door", "poison"))
        others = [await submit(api, data, "door") for _ in range(NEIGHBOURS)]
        await until((tmp_path / "knocked").exists)
        poison = await submit(api, {"seconds": 0.2}, "nap", "poison", Priority="u=0")
        for name in ("n1", "n2"):  # they may die before they have said where they listen
            assert await victim.ended() == -signal.SIGKILL
            (tmp_path / "open").touch()
            file = node_file(tmp_path, server, name, "nap", "door", "poison")
            victim = await stack.enter_async_context(started("serve", file, folder=tmp_path, env=env))
        assert await victim.ended() == -signal.SIGKILL
        victim, api = await stack.enter_async_context(start("n3", "nap", "door", "poison"))
        [failed] = await results(api, [poison])
        assert failed["status"] == "failed"
        assert "poison" in failed["result"]["error"]
        assert {job["status"] for job in await results(api, others)} == {"success"}
        assert victim.process.poll() is None
        shown = ""
        with anyio.move_on_after(60):
            while " 1 poison" not in shown:  # a count is announced every third of a lease
                done = await anyio.to_thread.run_sync(lambda: nodekit("cluster", tmp_path / "n3.toml", **env))
                shown = done.stdout + done.stderr
        assert " 1 poison" in shown
        assert shown.startswith("1 live node, 3 gone"), shown
        assert "0 unfinished jobs" in shown


async def test_steps_run_where_their_containers_are_while_nodes_and_their_engine_are_killed(
    tmp_path: Path, start: Start, server: SharedServer
) -> None:
    data = {"seconds": 0, "knocked": str(tmp_path / "knocked"), "open": str(tmp_path / "open")}
    async with start("front", "nap") as (_, front):
        async with start("back", "door") as (back, _):
            await until_known(front, {"nap", "door"})
            id = await submit(front, data, "nap", "door", "nap")
            await until((tmp_path / "knocked").exists)
            history = (await front.call("GET", f"/api/jobs/{id}")).json
            assert history["steps"][-1]["running"]["node"] == "back"
            back.signal(signal.SIGKILL)
            await back.ended()
        (tmp_path / "open").touch()
        later = await submit(front, data, "door")  # no node has it now, and one had it a moment ago
        server.kill()
        answer = await front.call("POST", "/api/jobs", json={"containers": ["nap"], "data": data})
        assert (answer.status, answer.headers["Retry-After"] > "0") == (503, True)
        server.start()
        async with start("back", "door"):
            jobs = await results(front, [id, later])
            assert [job["status"] for job in jobs] == ["success"] * 2
        history = (await front.call("GET", f"/api/jobs/{id}")).json
        assert [step["container"] for step in history["steps"]] == ["nap", "door", "nap"]


async def until_known(api: Api, containers: set[str]) -> None:
    """Wait until a node knows that these containers can be called."""
    with anyio.fail_after(60):
        while {one["id"] for one in (await api.call("GET", "/info")).json["containers"]} != containers:
            await anyio.sleep(0.05)
