"""The plugin as a whole, on a real chain: on-chain and delegated subscriptions, `/info`, `/health`, and its key."""

from typing import Any

import pytest
from chain_node import ChainNode
from delegation import Owner, requested
from eth_abi.abi import decode
from local_chain import Contracts

from nodekit import Identity
from nodekit_chain.work.records import State

pytestmark = pytest.mark.anyio

ALICE = Identity(client="alice")


async def echo(data: Any) -> Any:
    return {"said": data}


async def test_a_subscription_on_the_chain_is_served(contracts: Contracts) -> None:
    consumer = contracts.consumer(b"\x12\x34")
    id = consumer.subscribe(["echo"])
    async with ChainNode(contracts, {"echo": echo}).running() as chain:
        [record] = await chain.until_final()
        assert chain.node.chain_address == chain.address
    assert record.state is State.DONE
    [received] = consumer.received(id)
    assert decode(["string"], received["output"]) == ("{'said': '1234'}",)
    assert received["node"] == chain.address


async def test_a_delegated_subscription_is_created_and_served(contracts: Contracts) -> None:
    owner = Owner(contracts)
    async with ChainNode(contracts, {"echo": echo}).running() as chain:
        body = owner.signed(owner.subscription(["echo"]), nonce=9, data={"n": 2**70})
        await chain.node.subscribe(requested(body), ALICE)
        [record] = await chain.until_final()
    assert (record.state, record.id) == (State.DONE, 1)
    [received] = owner.consumer.received(1)
    assert decode(["string"], received["output"]) == ("{'said': {'n': 1180591620717411303424}}",)
    assert len(contracts.chain.transactions_of(chain.address)) == 1
