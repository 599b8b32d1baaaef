"""Forks at bad moments: nothing is lost, nobody gets the result of another, and the work goes on."""

from typing import Any

import anyio
import pytest
from eth_abi.abi import decode
from local_chain import Contracts, LocalChain
from msgspec.structs import replace
from serving import FAST, Serving

from nodekit_chain.work.records import State

pytestmark = pytest.mark.anyio


async def echo(data: Any) -> Any:
    return {"said": data}


async def test_what_an_earlier_transaction_has_delivered_survives_a_fork_below_all_blocks_that_are_remembered(
    contracts: Contracts, chain: LocalChain
) -> None:
    key = chain.new_key()[0]
    consumer = contracts.consumer(b"\x01")
    id = consumer.subscribe(["echo"], redundancy=2)
    async with Serving(contracts, {"echo": echo}, key=key).running() as serving:
        [record] = await serving.until_final()
    nobody_knows = replace(record, state=State.SEEN, block=0, block_hash="", sent=(), job="")
    chain.mine(5)
    async with Serving(contracts, {"echo": echo}, key=key).running() as serving:
        await serving.engine.accept(nobody_knows)  # as after the loss of a store
        records = await serving.until(lambda records: bool(records) and records[0].final, mining=False)
        assert records[0].reason == "an earlier transaction has delivered it"
        serving.reorganise(3)
        other = consumer.subscribe(["echo"])
        await serving.until(lambda records: bool(consumer.received(other)))
        assert serving.engine.problems() == []
    assert len(consumer.received(id)) == 1


async def test_a_result_is_delivered_although_its_transaction_was_given_up_before_a_fork(
    contracts: Contracts, chain: LocalChain
) -> None:
    chain.mine()
    consumer = contracts.consumer(b"\x01")
    id = consumer.subscribe(["echo"])
    chain.mine()
    chain.automine(False)
    async with Serving(contracts, {"echo": echo}, work=replace(FAST, bump_after_blocks=1000)).running() as serving:
        await serving.until(lambda records: bool(records) and records[0].state is State.SIGNED, mining=False)
        with anyio.fail_after(30):
            while not chain.waiting():
                await anyio.sleep(0.02)
        chain.drop_transactions()
        consumer.cancel(id)
        [record] = await serving.until(lambda records: records[0].giving_up, mining=False)
        chain.drop_transactions()
        serving.reorganise(1)  # and the cancellation is gone
        chain.rpc("eth_sendRawTransaction", "0x" + record.sent[-1].raw.hex())
        [record] = await serving.until_final()
    assert record.state is State.DONE, record.reason
    assert len(consumer.received(id)) == 1


async def test_a_transaction_that_was_mined_before_a_fork_is_not_sent_to_the_successor_of_its_subscription(
    contracts: Contracts, chain: LocalChain
) -> None:
    one, other = contracts.consumer(b"\x01"), contracts.consumer(b"\x02")
    chain.mine()
    work = replace(FAST, confirmations=50)
    async with Serving(contracts, {"echo": echo}, work=work).running() as serving:
        before = chain.height
        id = one.subscribe(["echo"])
        await serving.until(lambda records: bool(records) and records[0].state is State.MINED, mining=False)
        chain.automine(False)
        serving.reorganise(chain.height - before)
        assert other.subscribe(["echo"]) == id
        await serving.until(lambda records: bool(other.received(id)))
    assert [decode(["string"], one["output"])[0] for one in other.received(id)] == ["{'said': '02'}"]


async def test_a_transaction_that_was_done_before_a_fork_pays_more_after_it_if_blocks_cost_more(
    contracts: Contracts, chain: LocalChain
) -> None:
    chain.mine(10)
    id = (consumer := contracts.consumer(b"\x01")).subscribe(["echo"])
    chain.mine()
    async with Serving(contracts, {"echo": echo}).running() as serving:
        [record] = await serving.until_final()
        chain.automine(False)
        chain.next_base_fee(record.sent[0].max_fee * 20)  # it falls with each of the blocks that replace the others
        serving.reorganise(chain.height - record.block + 1)
        with anyio.fail_after(40):
            while not consumer.received(id):
                chain.next_base_fee(record.sent[0].max_fee * 2)
                chain.mine()
                await anyio.sleep(0.1)
        [now] = await serving.until_final()
    assert now.nonce == record.nonce
    assert len(now.sent) > 1
    assert len(consumer.received(id)) == len(serving.transactions()) == 1
