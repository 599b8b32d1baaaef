"""Nodes on one store: each takes delegated subscriptions, and the one that leads serves them."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from chain_node import ChainNode
from delegation import Owner, requested
from local_chain import Contracts

from nodekit import Identity, Refusal
from nodekit.testing import SharedServer
from nodekit_chain.work.records import State

pytestmark = pytest.mark.anyio

ALICE = Identity(client="alice")


async def echo(data: Any) -> Any:
    return {"said": data}


async def test_a_node_that_does_not_lead_takes_what_the_other_one_serves(contracts: Contracts, tmp_path: Path) -> None:
    owner = Owner(contracts)
    with SharedServer(tmp_path / "jobs.sqlite") as server:
        leader = ChainNode(contracts, {"echo": echo}, store=server.store(), name="leader")
        other = leader.again(store=server.store(), name="other")
        async with leader.running():
            with anyio.fail_after(30):
                while not leader.leads:
                    await anyio.sleep(0.01)
            async with other.running():
                body = owner.signed(owner.subscription(["echo"]), nonce=4)
                await other.node.subscribe(requested(body), ALICE)
                await leader.node.subscribe(requested(body), ALICE)  # a client that asks both is served once
                with pytest.raises(Refusal, match="Nonce already used"):
                    await leader.node.subscribe(requested({**body, "data": {}}), ALICE)
                [record] = await leader.until_final()
                assert (leader.leads, other.leads) == (True, False)
    assert record.state is State.DONE
    assert len(owner.consumer.received()) == 1
    assert len(contracts.chain.transactions_of(leader.address)) == 1
