"""The test bed: the contracts do what the protocol says, and the chain does what tests tell it to."""

import pytest
from local_chain import CallFailed, Contracts, LocalChain

from nodekit_chain.protocol.subscription import containers_hash

NODE = "0x" + "12" * 20


def test_a_result_reaches_the_consumer(contracts: Contracts) -> None:
    consumer = contracts.consumer(b"question")
    id = consumer.subscribe(["a", "b"])
    assert consumer.call("getContainerInputs", id, 1, 0, NODE) == b"question"
    contracts.coordinator.send("deliverCompute", id, 1, b"in", b"out", b"", NODE)
    [received] = consumer.received(id)
    assert (received["input"], received["output"], received["response"]) == (b"in", b"out", 1)
    assert received["node"] == contracts.chain.owner


def test_a_lazy_result_is_kept_in_the_inbox(contracts: Contracts) -> None:
    consumer = contracts.consumer()
    id = consumer.subscribe(["a"], lazy=True)
    contracts.coordinator.send("deliverCompute", id, 1, b"in", b"out", b"", NODE)
    [received] = consumer.received(id)
    assert received["output"] == b""
    item = contracts.inbox.call("read", containers_hash(["a"]), contracts.chain.owner, received["index"])
    assert item[1:] == (id, 1, b"in", b"out", b"")


def test_each_test_has_the_contracts_for_itself(contracts: Contracts) -> None:
    assert contracts.coordinator.call("id") == 1


def test_a_revert_shows_its_data(contracts: Contracts) -> None:
    with pytest.raises(CallFailed) as caught:
        contracts.coordinator.call("deliverCompute", 7, 1, b"", b"", b"", NODE)
    assert caught.value.data.hex() == "1a00354f"


def test_reorganised_blocks_lose_their_transactions(contracts: Contracts, chain: LocalChain) -> None:
    consumer = contracts.consumer()
    height = chain.height
    before = chain.block()["hash"]
    consumer.subscribe(["a"])
    replaced = chain.block()["hash"]
    chain.reorganise(1)
    assert chain.block(height)["hash"] == before
    assert chain.block(height + 1)["hash"] != replaced
    assert contracts.coordinator.call("id") == 1


def test_transactions_wait_for_a_block_and_can_be_dropped(contracts: Contracts, chain: LocalChain) -> None:
    sent = {"from": chain.owner, "to": NODE, "value": "0x1"}
    chain.automine(False)
    chain.rpc("eth_sendTransaction", sent)
    assert len(chain.waiting()) == 1
    chain.drop_transactions()
    chain.mine()
    assert chain.balance(NODE) == 0
    chain.rpc("eth_sendTransaction", sent)
    chain.mine()
    assert chain.balance(NODE) == 1


def test_blocks_come_when_the_test_says(contracts: Contracts, chain: LocalChain) -> None:
    before = chain.timestamp
    chain.mine(2, seconds=30)
    assert chain.timestamp == before + 60
