"""Commands beside the nodes of a store: keys of the plugin `apikeys`, which are one set for a cluster, and jobs."""

import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest
from redis_server import RedisServer
from stores import store_on

from nodekit import JobQuery, JobStatus, Node, Outcome, StoreFailed, Unauthorized, load_node
from nodekit.testing import make_connection, make_job

pytestmark = pytest.mark.anyio
NODES = 3


async def nodekit(*command: str) -> str:
    """Run a command, and return what it prints."""
    return (await anyio.run_process([sys.executable, "-m", "nodekit", *command])).stdout.decode().strip()


async def is_known(node: Node, text: str) -> bool:
    try:
        return (await node.identify(make_connection(authorization=f"Bearer {text}"))).client == "alice"
    except Unauthorized:
        return False


async def test_each_node_takes_a_new_and_a_revoked_key_and_none_asks_while_the_server_is_away(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    for number in range(NODES):
        lines = [f'[node]\nname = "node-{number}"', '[store]\nuse = "redis"', 'url = { file = "url" }']
        lines += ["lease_seconds = 5", '[[plugins]]\nuse = "apikeys"\nkeys = "store"\n']
        (tmp_path / f"node-{number}.toml").write_text("\n".join(lines))
    (tmp_path / "url").write_text(redis_server.url)

    async def keys(*command: str) -> str:
        return await nodekit("keys", *command)

    async def becomes(text: str, known: bool) -> None:
        with anyio.fail_after(60):
            for node in nodes:
                while await is_known(node, text) is not known:
                    await anyio.sleep(0.01)

    first = str(tmp_path / "node-0.toml")
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(load_node(tmp_path / f"node-{n}.toml")) for n in range(NODES)]
        text = await keys("create", first, "--name", "alice")
        await becomes(text, True)
        assert "alice" in await keys("list", str(tmp_path / "node-2.toml"))
        redis_server.kill()
        with anyio.fail_after(60):
            while not any("keys" in reason for reason in (await nodes[0].health()).reasons):
                await anyio.sleep(0.05)
        assert [await is_known(node, text) for node in nodes] == [True] * NODES
        redis_server.start()
        second = await keys("rotate", first, "alice", "--keep", "0s")
        await becomes(second, True)
        await becomes(text, False)
        await keys("revoke", str(tmp_path / "node-1.toml"), "alice")
        await becomes(second, False)
    assert "revoked" in await keys("show", first, "alice")


async def test_jobs_are_shown_and_deleted_beside_the_nodes_that_work_on_them(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[store]\nuse = "redis"\nurl = { file = "url" }\n')
    (tmp_path / "url").write_text(redis_server.url)
    waiting, ended = make_job(), make_job()
    async with store_on(redis_server) as store:
        await store.add([ended])
        [claim] = await store.claim(["echo"], None, 1)
        await store.save(claim, ended.finished(Outcome(JobStatus.CANCELLED), 1.0))
        await store.add([waiting])
        shown = await nodekit("store", "jobs", str(file))
        assert waiting.id in shown
        assert ended.id in shown
        async with store.view() as view:
            assert await view.delete([ended.id, waiting.id]) == 1  # none that a node may be working on
        assert await store.find(JobQuery()) == [waiting.id]


async def test_a_server_that_is_not_there_is_told_once_with_the_cure(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[store]\nuse = "redis"\nurl = "${ADDRESS}"\n[[transports]]\nuse = "asgi"\nbind = "127.0.0.1:0"\n')
    given = {**os.environ, "ADDRESS": "redis://127.0.0.1:1/0"}
    done = await anyio.run_process([sys.executable, "-m", "nodekit", "serve", str(file)], env=given, check=False)
    [line] = done.stderr.decode().splitlines()
    assert "cannot reach Redis" in line
    assert line.endswith("; look whether the server runs, and at `url` of the store")


async def test_keys_of_another_version_are_not_read_beside_its_nodes(redis_server: RedisServer) -> None:
    store = store_on(redis_server)
    async with store:
        pass
    redis_server.call("HSET", "{nodekit}:about", "schema", "999")
    with pytest.raises(StoreFailed, match="schema 999"):
        async with store.view():
            pass
