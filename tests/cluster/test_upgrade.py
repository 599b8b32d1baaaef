"""Three nodes behind HAProxy are replaced by those of the next release, and restored elsewhere, while clients work."""

import json
import os
import re
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import anyio
import anyio.to_thread
import pytest
from engine import debian
from engine.fixtures import or_unavailable
from http_api import free_port
from paths import ROOT
from postgres_server import HOST, NoPostgres, PostgresServer, programs
from served import nodekit

from cluster.balanced import NAMES, BalancedClients, haproxy
from cluster.clients import containers_of
from cluster.containers import Containers, containers
from cluster.drill import LEASE_SECONDS
from cluster.engines import Engine, NoEngine, engines
from cluster.faults import Watch
from cluster.nodes import NodeProcess, node_file, prepare
from cluster.releases import NEXT, has_tables, next_release
from nodekit import __version__

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600), pytest.mark.xdist_group("cluster 0")]

RELEASED = [name for name in engines() if (ROOT / "contrib" / f"nodekit-{name}").is_dir()]
SOME = 25
"""Jobs that end before something is done, and again before the next."""
BACK_UP = ROOT / "docs" / "how-to" / "back-up-a-cluster.md"
RUN = ROOT / "docs" / "how-to" / "run-several-nodes.md"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def proxied() -> None:
    with or_unavailable(debian.Missing):
        debian.need("haproxy")


@dataclass
class Balanced:
    """Nodes, containers and clients of a proxy."""

    nodes: Sequence[NodeProcess]
    containers: Containers
    clients: BalancedClients
    watch: Watch
    files: Mapping[str, Callable[[str], Path]]
    """Writes the file of a node anew, with another table `[store]`."""


@asynccontextmanager
async def balanced(folder: Path, store: str) -> AsyncIterator[Balanced]:
    """Run three nodes behind HAProxy, each without one of the containers, and clients that come again."""
    env = prepare(folder)
    ports = [free_port() for _ in range(len(NAMES) + 1)]
    async with AsyncExitStack() as stack:
        called = await stack.enter_async_context(containers())
        nodes, files = list[NodeProcess](), dict[str, Callable[[str], Path]]()
        for number, name in enumerate(NAMES):
            url, some = called.url(name), containers_of(number)
            files[name] = partial(node_file, folder, name, url=url, containers=some, port=ports[number])
            nodes.append(await stack.enter_async_context(NodeProcess(name, files[name](store), env)))
        url = stack.enter_context(haproxy(ports[-1], ports[:-1]))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        clients = BalancedClients(url, session)
        watch = Watch(nodes, LEASE_SECONDS)
        await _answered(clients)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch.run)
            yield Balanced(nodes, called, clients, watch, files)
            tasks.cancel_scope.cancel()


async def _answered(clients: BalancedClients) -> None:
    """Wait until a node is there for the proxy and knows the containers of all."""
    with anyio.fail_after(60):
        while True:
            with suppress(aiohttp.ClientError):
                answer = await clients.api.get("/info")
                if answer.status == 200 and len(answer.json["containers"]) == len(NAMES):
                    return
            await anyio.sleep(0.05)


async def report(node: NodeProcess) -> Any:
    """Return what `nodekit cluster` shows."""
    done = await anyio.to_thread.run_sync(
        lambda: nodekit("cluster", node.file, "--json", PYTHONPATH=str(node.file.parent))
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", RELEASED)
async def test_nodes_are_replaced_by_the_next_release_and_clients_that_come_again_see_nothing(
    name: str, tmp_path: Path, proxied: None
) -> None:
    python = await anyio.to_thread.run_sync(next_release, tmp_path / "release", f"nodekit-{name}")
    with ExitStack() as stack:
        with or_unavailable(NoEngine):
            engine: Engine = stack.enter_context(engines()[name](tmp_path, LEASE_SECONDS))
        async with balanced(tmp_path, engine.store(*engine.address, LEASE_SECONDS)) as seen:
            before = await report(seen.nodes[0])
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(seen.clients.run)
                await seen.clients.until(SOME)
                for node in seen.nodes:
                    node.python = python
                    assert await node.stop() == 0
                    await node.start()
                    await _well(node)
                    await seen.clients.until(SOME)
                seen.clients.ending.set()
            found = await report(seen.nodes[0])
    print(f"\n{len(seen.clients.accepted)} jobs; asked to come again: {seen.clients.again}")
    assert seen.clients.wrong == []
    assert set(seen.clients.accepted.values()) == set(seen.clients.results)
    live = {(node["name"], node["version"]) for node in found["nodes"] if node["live"]}
    assert {(name, NEXT) for name in NAMES} <= live
    further = found["engine"]["schema_version"] - before["engine"]["schema_version"]
    assert further == has_tables(f"nodekit-{name}")
    assert found["pending"] == 0
    assert found["takeovers"] == 0 or seen.watch.harms
    assert len({call.key for call in seen.containers.calls}) == len(seen.containers.calls) or seen.watch.harms


async def _well(node: NodeProcess) -> None:
    """Wait, as the page says, until `/health` is 200. Reasons name nodes of the release before, and nothing else."""
    with anyio.fail_after(60):
        while (answer := await node.ask("GET", "/health", seconds=60)).status != 200:
            await anyio.sleep(0.1)
    others = re.compile(rf"node '\w+' runs nodekit {re.escape(__version__)}, not {re.escape(NEXT)}")
    assert all(others.fullmatch(reason) for reason in answer.json.get("reasons", ())), answer.json


def commands(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a page in a language; of a console, what is typed."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    if language != "console":
        return blocks
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def typed(command: str, folder: Path, **env: str) -> None:
    """Run a command of a page as its reader types it."""
    path = f"{programs()}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder, env={"PATH": path, **env}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


async def test_a_backup_that_is_taken_under_load_is_restored_on_another_server_as_the_pages_say(
    tmp_path: Path, proxied: None
) -> None:
    [make, *_] = commands(RUN, "sql")
    *_, remake = commands(BACK_UP, "sql")
    [dump, restore] = commands(BACK_UP, "console")
    with ExitStack() as stack:
        with or_unavailable(NoPostgres):
            here, there = stack.enter_context(PostgresServer()), stack.enter_context(PostgresServer())
        for server, text in ((here, make), (there, remake)):
            server.sql(text.replace("…", "secret"))
        old, new = (f"postgresql://node:secret@{HOST}:{server.port}/jobs" for server in (here, there))
        async with balanced(tmp_path, store_at(tmp_path, old)) as seen:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(seen.clients.run)
                await seen.clients.until(SOME)
                known = dict(seen.clients.accepted)
                await anyio.to_thread.run_sync(lambda: typed(dump, tmp_path, NODE_DATABASE=old))
                await seen.clients.until(SOME)
                seen.clients.ending.set()
            last = set(seen.clients.accepted.values()) - set(known.values())
            for node in seen.nodes:
                await node.stop()
            here.kill()
            typed(restore, tmp_path, NEW_DATABASE=new)
            for node in seen.nodes:
                seen.files[node.name](store_at(tmp_path, new))
                await node.start()
            await _answered(seen.clients)
            seen.clients.accepted, seen.clients.results = known, {}
            for number in known:
                await seen.clients.read(number)
            found = await report(seen.nodes[0])
            unknown = [await seen.clients.api.get(f"/api/jobs?id={id}") for id in last]
    assert seen.clients.wrong == []
    assert set(seen.clients.results) == set(known.values())
    assert any(answer.status == 404 for answer in unknown)
    assert found["engine"]["replicas"] == 0  # the role may see them


def store_at(folder: Path, url: str) -> str:
    """Return the table `[store]` for a database."""
    secret = folder / f"url-{urlsplit(url).port}"
    secret.write_text(url)
    secret.chmod(0o600)
    return f'[store]\nuse = "postgres"\nurl = {{ file = "{secret}" }}\nlease_seconds = {LEASE_SECONDS}\n'
