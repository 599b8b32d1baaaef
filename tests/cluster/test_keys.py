"""Keys of the plugin `apikeys` in the store are one set for a cluster."""

import sys
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

from cluster.drill import LEASE_SECONDS
from cluster.engines import Engine, engines
from nodekit import Node, Unauthorized, load_node
from nodekit.testing import make_connection

pytestmark = pytest.mark.anyio
NODES = 3


async def is_known(node: Node, text: str) -> bool:
    try:
        return (await node.identify(make_connection(authorization=f"Bearer {text}"))).client == "alice"
    except Unauthorized:
        return False


@pytest.mark.parametrize("engine", [name for name in engines() if name != "kit"], indirect=True)
async def test_each_node_takes_a_new_and_a_revoked_key_and_none_asks_while_the_server_is_away(
    engine: Engine, tmp_path: Path
) -> None:
    for number in range(NODES):
        store = engine.store(*engine.address, LEASE_SECONDS)
        text = f'[node]\nname = "node-{number}"\n{store}\n[[plugins]]\nuse = "apikeys"\nkeys = "store"\n'
        (tmp_path / f"node-{number}.toml").write_text(text)

    async def keys(*command: str) -> str:
        arguments = [sys.executable, "-m", "nodekit", "keys", *command]
        return (await anyio.run_process(arguments)).stdout.decode().strip()

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
        engine.kill()
        with anyio.fail_after(60):
            while not any("keys" in reason for reason in (await nodes[0].health()).reasons):
                await anyio.sleep(0.05)
        assert [await is_known(node, text) for node in nodes] == [True] * NODES
        engine.start()
        second = await keys("rotate", first, "alice", "--keep", "0s")
        await becomes(second, True)
        await becomes(text, False)
        await keys("revoke", str(tmp_path / "node-1.toml"), "alice")
        await becomes(second, False)
    assert "revoked" in await keys("show", first, "alice")
