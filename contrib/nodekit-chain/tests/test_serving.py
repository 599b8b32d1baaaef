"""Subscriptions of a real chain, served by a node: each flow from the subscription to the delivered result."""

from typing import Any

import pytest
from eth_abi.abi import decode
from local_chain import Contracts
from serving import Serving

from nodekit_chain.work.records import State

pytestmark = pytest.mark.anyio


async def echo(data: Any) -> Any:
    return {"said": data}


async def test_a_callback_is_delivered(contracts: Contracts) -> None:
    consumer = contracts.consumer(b"\x12\x34")
    id = consumer.subscribe(["echo"])
    async with Serving(contracts, {"echo": echo}).running() as serving:
        [record] = await serving.until_final()
    assert record.state is State.DONE
    [received] = consumer.received(id)
    assert decode(["string"], received["output"]) == ("{'said': '1234'}",)
    assert received["node"] == serving.sender.address
    assert len(serving.transactions()) == 1
