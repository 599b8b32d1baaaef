"""A thousand subscriptions: what a block costs does not grow with those that have nothing to do."""

from typing import Any

import anyio
import pytest
from local_chain import Contracts
from rpc_proxy import RpcProxy
from serving import Serving

from nodekit_chain.work.records import State

pytestmark = pytest.mark.anyio

ACTIVE = 10
BLOCKS = 10
PERIOD, HOUR = 60, 3600
MOST_PER_BLOCK = 4
"""Calls that a block costs where nothing is to do."""
MOST_PER_RESULT = 12
"""Calls that a result costs, from its interval's begin to its end."""


async def echo(data: Any) -> Any:
    return {"said": data}


async def seen(node: Serving) -> None:
    """Wait until the node has looked at the newest block."""
    with anyio.fail_after(60):
        while (view := node.engine.view) is None or view.latest.number < node.chain.height:
            await anyio.sleep(0.005)


async def blocks_cost(node: Serving, proxy: RpcProxy, number: int = BLOCKS) -> tuple[int, int]:
    """Return the requests and the calls for so many blocks, without those that only look for a new one."""
    proxy.forget_counts()
    for _ in range(number):
        node.chain.mine(seconds=1)
        await seen(node)
    return proxy.requests - proxy.polls, proxy.methods.total() - proxy.polls


async def test_subscriptions_that_wait_cost_nothing(contracts: Contracts) -> None:
    consumer = contracts.consumer(b"question")
    with RpcProxy(contracts.chain.url) as proxy:
        node = Serving(contracts, {"echo": echo}, urls=[proxy.url])
        async with node.running():
            await seen(node)
            alone = await blocks_cost(node, proxy)
            consumer.subscribe_times(1000, ["echo"], frequency=5, period=HOUR)
            await seen(node)
            crowded = await blocks_cost(node, proxy)
    assert len(node.engine._watcher.catalogue.known) == 1000
    assert crowded == alone
    assert alone[0] <= BLOCKS
    assert alone[1] <= MOST_PER_BLOCK * BLOCKS


async def test_ten_active_ones_among_a_thousand_cost_what_they_need(contracts: Contracts) -> None:
    consumer = contracts.consumer(b"question")
    consumer.subscribe_times(1000 - ACTIVE, ["echo"], frequency=5, period=HOUR)
    with RpcProxy(contracts.chain.url) as proxy:
        node = Serving(contracts, {"echo": echo}, urls=[proxy.url])
        async with node.running():
            consumer.subscribe_times(ACTIVE, ["echo"], frequency=3, period=PERIOD)
            await seen(node)
            proxy.forget_counts()
            before = contracts.chain.height
            for interval in (1, 2, 3):
                contracts.chain.mine(seconds=PERIOD)
                await node.until_final(ACTIVE * interval)
            blocks = contracts.chain.height - before
            calls = proxy.methods.total() - proxy.polls
            records = await node.records()
    assert {record.state for record in records} == {State.DONE}
    assert len(consumer.received()) == 3 * ACTIVE
    assert calls <= MOST_PER_BLOCK * blocks + MOST_PER_RESULT * 3 * ACTIVE, dict(proxy.methods)
