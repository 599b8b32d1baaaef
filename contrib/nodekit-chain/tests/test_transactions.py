"""Transactions on their way: exactly one is mined for each result, whatever becomes of the first."""

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from local_chain import Contracts, LocalChain
from msgspec.structs import replace
from rpc_proxy import RpcProxy
from serving import FAST, Serving

from nodekit import StoreFailed, Write
from nodekit_chain.protocol.rlp import items_of
from nodekit_chain.work.ledger import Entry
from nodekit_chain.work.records import State, Work

pytestmark = pytest.mark.anyio


async def echo(data: Any) -> Any:
    return {"said": data}


def all_are(state: State) -> Any:
    return lambda records: bool(records) and all(one.state is state for one in records)


@asynccontextmanager
async def signed(contracts: Contracts, **settings: Any) -> AsyncIterator[tuple[Serving, Work]]:
    """Run a node whose transaction waits for a block."""
    contracts.chain.automine(False)
    async with Serving(contracts, {"echo": echo}, **settings).running() as serving:
        [record] = await serving.until(all_are(State.SIGNED), mining=False)
        await waits(serving)
        yield serving, record


async def waits(serving: Serving) -> list[dict[str, Any]]:
    """Wait until a transaction of the node waits for a block."""
    with anyio.fail_after(30):
        while not (found := [one for one in serving.chain.waiting() if one["from"] == serving.sender.address]):
            await anyio.sleep(0.02)
    return found


async def test_a_dropped_transaction_is_sent_again(contracts: Contracts, chain: LocalChain) -> None:
    id = (consumer := contracts.consumer(b"\x01")).subscribe(["echo"])
    async with signed(contracts, work=replace(FAST, bump_after_blocks=1000)) as (serving, record):
        chain.drop_transactions()
        chain.mine()
        [sent] = await waits(serving)
        assert sent["hash"] == record.sent[0].hash
        await serving.until_final()
    assert len(consumer.received(id)) == len(serving.transactions()) == 1


async def test_a_transaction_that_is_stuck_is_replaced_under_its_nonce(contracts: Contracts, chain: LocalChain) -> None:
    id = (consumer := contracts.consumer(b"\x01")).subscribe(["echo"])
    async with signed(contracts) as (serving, record):
        chain.drop_transactions()
        for _ in range(20):
            chain.next_base_fee(20 * 10**9)  # more than the first version pays
            chain.mine()
            await anyio.sleep(0.1)
            [now] = await serving.records()
            if now.state is not State.SIGNED:
                break
        [now] = await serving.until_final()
        assert now.nonce == record.nonce
        assert len(now.sent) > 1
        fees = [one.max_fee for one in now.sent]
        assert fees == sorted(fees)
    assert len(consumer.received(id)) == len(serving.transactions()) == 1


async def test_a_transaction_whose_time_is_over_makes_room_for_others(contracts: Contracts, chain: LocalChain) -> None:
    consumer = contracts.consumer(b"\x01")
    id = consumer.subscribe(["echo"], period=1000, frequency=2)
    chain.mine(seconds=1000)
    async with signed(contracts) as (serving, _record):
        chain.drop_transactions()
        chain.mine(seconds=1000)
        records = await serving.until(lambda records: len(records) == 2 and all(one.final for one in records))
        assert [one.state for one in records] == [State.EXPIRED, State.DONE]
    assert [one["interval"] for one in consumer.received(id)] == [2]
    assert [one["to"] == serving.sender.address for one in serving.transactions()] == [True, False]


async def test_a_nonce_that_somebody_else_has_used_is_replaced(contracts: Contracts, chain: LocalChain) -> None:
    id = (consumer := contracts.consumer(b"\x01")).subscribe(["echo"])
    async with signed(contracts, work=replace(FAST, bump_after_blocks=1000)) as (serving, _record):
        chain.drop_transactions()
        chain.rpc("anvil_impersonateAccount", serving.sender.address)
        foreign = {"from": serving.sender.address, "to": chain.owner, "gasPrice": hex(10**11), "nonce": "0x0"}
        chain.rpc("eth_sendTransaction", foreign)
        [now] = await serving.until_final()
    assert now.state is State.DONE
    assert len(consumer.received(id)) == 1
    assert len(serving.transactions()) == 2


async def test_a_nonce_is_not_given_again_if_the_store_has_kept_it_and_reports_a_failure(contracts: Contracts) -> None:
    consumer = contracts.consumer(b"\x01")
    ids = [consumer.subscribe(["echo"]) for _ in range(3)]
    serving = Serving(contracts, {"echo": echo})
    ledger, given = serving.engine._context.ledger, list[tuple[int, int]]()
    change = ledger.change

    async def keep_without_a_reply(entry: Entry, work: Work, writes: Sequence[Write] = ()) -> Entry:
        changed = await change(entry, work, writes)
        if work.state is State.SIGNED and work.nonce is not None and entry.work.nonce is None:
            given.append((work.nonce, work.id))
            if len(given) == 1:
                raise StoreFailed("the reply was lost")
        return changed

    ledger.change = keep_without_a_reply  # type: ignore[method-assign]
    async with serving.running():
        records = await serving.until_final(3)
    assert len({nonce for nonce, _ in given}) == len({id for _, id in given}) == len(given) == 3
    assert [one.state for one in records] == [State.DONE] * 3
    assert [len(consumer.received(id)) for id in ids] == [1, 1, 1]
    assert len(serving.transactions()) == 3


async def test_each_transfer_that_fills_a_gap_of_nonces_pays_more_than_the_one_before(
    contracts: Contracts, chain: LocalChain
) -> None:
    consumer = contracts.consumer(b"\x01")

    def transfers() -> list[tuple[int, int]]:
        """Return the fees of the transfers that were swallowed, as they came."""
        fields = [items_of(bytes.fromhex(raw[4:])) for raw in proxy.lost]
        fees = {(int.from_bytes(one[3]), int.from_bytes(one[2])): None for one in fields if not int.from_bytes(one[1])}
        return list(fees)

    with RpcProxy(chain.url) as proxy, proxy.spoiled("lose transactions"):
        serving = Serving(contracts, {"echo": echo}, urls=[proxy.url], work=replace(FAST, bump_after_blocks=1))
        async with serving.running():
            await serving.node.storage("chain").put(f"nonce/{serving.sender.address}", b"1")
            id = consumer.subscribe(["echo"])
            await serving.until(lambda records: len(transfers()) >= 4)
            proxy.mode = "pass"
            [record] = await serving.until_final()
    fees = transfers()
    for before, after in itertools.pairwise(fees):
        assert all(new * 10 >= old * 11 for old, new in zip(before, after, strict=True)), fees
    assert (record.state, record.nonce) == (State.DONE, 1)
    assert [int(one["nonce"], 16) for one in serving.transactions()] == [0, 1]
    assert len(consumer.received(id)) == 1


async def test_a_reverted_transaction_is_tried_again(contracts: Contracts, chain: LocalChain) -> None:
    id = (consumer := contracts.consumer(b"\x01")).subscribe(["echo"])
    async with signed(contracts) as (serving, record):
        refuse = consumer.data("setMode", 1)
        fields = {"from": chain.owner, "to": consumer.address, "data": "0x" + refuse.hex(), "gasPrice": hex(10**12)}
        chain.drop_transactions()
        chain.rpc("eth_sendTransaction", fields)
        chain.rpc("eth_sendRawTransaction", "0x" + record.sent[0].raw.hex())
        chain.mine()
        [now] = await serving.until(lambda records: any(one.attempts for one in records), mining=False)
        assert now.reason == "not today"
        chain.automine(True)
        consumer.mode("take")
        [now] = await serving.until_final()
    assert now.state is State.DONE
    assert len(consumer.received(id)) == 1
    assert [one["receipt"]["status"] for one in serving.transactions()] == ["0x0", "0x1"]


async def test_a_transaction_that_another_node_made_useless_ends_its_record(
    contracts: Contracts, chain: LocalChain
) -> None:
    id = (consumer := contracts.consumer(b"\x01")).subscribe(["echo"])
    async with signed(contracts) as (serving, record):
        chain.drop_transactions()
        delivered = contracts.coordinator.data("deliverCompute", id, 1, b"", b"", b"", chain.owner)
        fields = {"from": chain.owner, "to": contracts.coordinator.address, "data": "0x" + delivered.hex()}
        chain.rpc("eth_sendTransaction", {**fields, "gas": hex(5_000_000), "gasPrice": hex(10**12)})
        chain.rpc("eth_sendRawTransaction", "0x" + record.sent[0].raw.hex())
        [now] = await serving.until_final()
    assert (now.state, now.reason) == (State.EXPIRED, "IntervalCompleted")
    assert len(consumer.received(id)) == 1


async def test_a_result_in_a_block_that_leaves_the_chain_is_delivered_again(
    contracts: Contracts, chain: LocalChain
) -> None:
    chain.mine(10)
    id = (consumer := contracts.consumer(b"\x01")).subscribe(["echo"])
    chain.mine()
    async with signed(contracts) as (serving, record):
        chain.mine()
        await serving.until(all_are(State.MINED), mining=False)
        serving.reorganise(1)
        assert consumer.received(id) == []
        [now] = await serving.until_final()
    assert now.sent == record.sent
    assert len(consumer.received(id)) == len(serving.transactions()) == 1


async def test_a_result_that_was_done_is_delivered_again_after_a_deep_fork(
    contracts: Contracts, chain: LocalChain
) -> None:
    chain.mine(10)
    id = (consumer := contracts.consumer(b"\x01")).subscribe(["echo"])
    chain.mine()
    async with signed(contracts) as (serving, record):
        await serving.until_final()
        serving.reorganise(chain.height - (await serving.records())[0].block + 1)
        assert consumer.received(id) == []
        await serving.until(lambda records: bool(consumer.received(id)))
        [now] = await serving.until_final()
    assert now.sent == record.sent
    assert len(consumer.received(id)) == len(serving.transactions()) == 1


async def test_an_id_that_a_fork_uses_again_is_served(contracts: Contracts, chain: LocalChain) -> None:
    one, other = contracts.consumer(b"\x01"), contracts.consumer(b"\x02")
    chain.mine()
    async with Serving(contracts, {"echo": echo}).running() as serving:
        before = chain.height
        id = one.subscribe(["echo"])
        await serving.until_final()
        serving.reorganise(chain.height - before)
        assert contracts.coordinator.call("id") == 1
        assert other.subscribe(["echo"]) == id
        await serving.until(lambda records: bool(other.received(id)))
    assert one.received(id) == []


async def test_the_result_of_a_subscription_that_left_the_chain_is_not_given_to_its_successor(
    contracts: Contracts, chain: LocalChain
) -> None:
    one, other = contracts.consumer(b"\x01"), contracts.consumer(b"\x02")
    chain.mine()
    id = one.subscribe(["echo"])
    async with signed(contracts) as (serving, _record):
        chain.drop_transactions()
        serving.reorganise(1)
        chain.automine(True)
        assert other.subscribe(["echo"]) == id
        chain.automine(False)
        await serving.until(lambda records: bool(other.received(id)))
    assert decode_said(other.received(id)[0]["output"]) == "{'said': '02'}"


def decode_said(output: bytes) -> str:
    from eth_abi.abi import decode

    return str(decode(["string"], output)[0])


async def test_an_account_without_ether_is_a_problem_for_operators(contracts: Contracts, chain: LocalChain) -> None:
    id = (consumer := contracts.consumer(b"\x01")).subscribe(["echo"])
    async with signed(contracts) as (serving, _record):
        chain.drop_transactions()
        chain.set_balance(serving.sender.address, 0)
        chain.mine()
        with anyio.fail_after(30):
            while not serving.engine.problems():
                await anyio.sleep(0.02)
        assert "Insufficient funds" in (await serving.node.health()).reasons[0]
        chain.set_balance(serving.sender.address, 10**18)
        await serving.until_final()
        assert serving.engine.problems() == []
    assert len(consumer.received(id)) == 1


async def test_a_lack_of_ether_is_no_problem_once_nobody_waits_for_it(contracts: Contracts, chain: LocalChain) -> None:
    consumer = contracts.consumer(b"\x01")
    serving = Serving(contracts, {"echo": echo})
    chain.set_balance(serving.sender.address, 0)
    id = consumer.subscribe(["echo"])
    async with serving.running():
        with anyio.fail_after(60):
            while not any(one.startswith("nothing is sent") for one in serving.engine.problems()):
                chain.mine()
                await anyio.sleep(0.1)
        consumer.cancel(id)
        await serving.until_final()
        assert serving.engine.problems() == []
    assert consumer.received(id) == []
