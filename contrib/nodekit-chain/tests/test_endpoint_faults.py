"""Endpoints that fail while a node serves: the node stays, says so, uses another one, and delivers once."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest
from chain_node import ChainNode
from local_chain import ConsumerContract, Contracts
from rpc_proxy import Mode, RpcProxy

from nodekit_chain.work.records import State

pytestmark = pytest.mark.anyio

FAULTS: tuple[Mode, ...] = ("hang", "busy", "busy in json", "status 500", "garbage", "no json-rpc", "cut", "other ids")


async def echo(data: Any) -> Any:
    return {"said": data}


@pytest.fixture
def proxy(contracts: Contracts) -> Iterator[RpcProxy]:
    with RpcProxy(contracts.chain.url) as proxy:
        yield proxy


@pytest.fixture
def other(contracts: Contracts) -> Iterator[RpcProxy]:
    with RpcProxy(contracts.chain.url) as proxy:
        yield proxy


@pytest.fixture
def consumer(contracts: Contracts) -> ConsumerContract:
    return contracts.consumer(b"question")


@pytest.fixture
async def node(contracts: Contracts, proxy: RpcProxy) -> AsyncIterator[ChainNode]:
    node = ChainNode(contracts, {"echo": echo}, urls=[proxy.url], call_seconds=0.5)
    async with node.running():
        yield node


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(30):
        while not condition():
            await anyio.sleep(0.01)


@pytest.mark.parametrize("mode", FAULTS)
async def test_a_node_whose_only_endpoint_fails_says_so_and_serves_later(
    mode: Mode, node: ChainNode, proxy: RpcProxy, consumer: ConsumerContract
) -> None:
    with proxy.spoiled(mode):
        await until(lambda: bool(node.plugin.nodekit_problems()))
        health = await node.node.health()
        assert health.healthy
        assert any(f"the RPC endpoint 127.0.0.1:{proxy.port} fails" in reason for reason in health.reasons)
        id = consumer.subscribe(["echo"])
    [record] = await node.until_final()
    assert record.state is State.DONE
    assert [one["interval"] for one in consumer.received(id)] == [1]
    await until(lambda: not node.plugin.nodekit_problems())


async def test_a_node_whose_endpoint_refuses_connections_serves_later(
    node: ChainNode, proxy: RpcProxy, consumer: ConsumerContract
) -> None:
    proxy.close()
    await until(lambda: bool(node.plugin.nodekit_problems()))
    id = consumer.subscribe(["echo"])
    proxy.listen()
    await node.until_final()
    assert len(consumer.received(id)) == 1


@pytest.mark.parametrize("mode", ["hang", "busy", "garbage"])
async def test_another_endpoint_takes_over_at_once(
    mode: Mode, contracts: Contracts, proxy: RpcProxy, other: RpcProxy, consumer: ConsumerContract
) -> None:
    node = ChainNode(contracts, {"echo": echo}, urls=[proxy.url, other.url], call_seconds=0.5)
    async with node.running():
        assert other.requests == 0
        proxy.mode = mode
        id = consumer.subscribe(["echo"])
        [record] = await node.until_final()
        assert record.state is State.DONE
        assert other.methods["eth_sendRawTransaction"] >= 1
        [problem] = node.plugin.nodekit_problems()
        assert f"127.0.0.1:{proxy.port} fails" in problem
    assert len(consumer.received(id)) == 1
    assert len(contracts.chain.transactions_of(node.address)) == 1


async def test_a_transaction_that_an_endpoint_loses_is_sent_again_unchanged(
    node: ChainNode, proxy: RpcProxy, consumer: ConsumerContract
) -> None:
    proxy.mode = "lose transactions"
    id = consumer.subscribe(["echo"])
    await node.until(lambda records: len(proxy.lost) >= 2)
    assert consumer.received(id) == []
    first = proxy.lost[0]
    proxy.mode = "pass"
    [record] = await node.until_final()
    assert record.state is State.DONE
    assert len(consumer.received(id)) == 1
    [mined] = node.chain.transactions_of(node.address)
    assert first in {f"0x{sent.raw.hex()}" for sent in record.sent}
    assert mined["hash"] in {sent.hash for sent in record.sent}
    assert {sent.raw for sent in record.sent} >= {bytes.fromhex(raw[2:]) for raw in proxy.lost}
