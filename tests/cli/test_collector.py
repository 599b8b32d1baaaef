"""Python's collector of cycles in the process of a node."""

from pathlib import Path

import pytest
from served import serve

pytestmark = pytest.mark.anyio

NODE_FILE = """
store = { use = "memory" }
[[transports]]
use = "asgi"
bind = "127.0.0.1:0"
[[runners]]
use = "function"
[[runners.containers]]
id = "collector"
call = "collector.py:state"
"""
FUNCTION = """
import gc

async def state(data):
    young, left_out = gc.get_threshold()[0], gc.get_freeze_count()
    return {"enabled": gc.isenabled(), "young": young, "seen": len(gc.get_objects()), "left out": left_out}
"""


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_collector_leaves_out_what_is_there_when_the_node_has_started(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(NODE_FILE)
    (tmp_path / "collector.py").write_text(FUNCTION)
    async with serve(file) as (_, api):
        await api.submit("collector")
        [result] = await api.results(await api.submit("collector"))
    state = result["result"]["output"]
    assert state["enabled"]
    assert state["young"] > 1000
    assert state["left out"] > 10 * state["seen"]
