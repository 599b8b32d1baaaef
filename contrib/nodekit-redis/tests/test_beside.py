"""Commands beside the nodes of a store, and for a server that is not there."""

import os
import sys
from pathlib import Path

import anyio
import pytest
from redis_server import RedisServer
from stores import store_on

from nodekit import JobQuery, JobStatus, Outcome, StoreFailed
from nodekit.testing import make_job

pytestmark = pytest.mark.anyio


async def nodekit(*command: str) -> str:
    """Run a command, and return what it prints."""
    return (await anyio.run_process([sys.executable, "-m", "nodekit", *command])).stdout.decode().strip()


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
