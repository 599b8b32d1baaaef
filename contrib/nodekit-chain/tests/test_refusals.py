"""Deliveries that the coordinator or a consumer refuses: what becomes of each record."""

from typing import Any

import pytest
from local_chain import Contracts, LocalChain
from msgspec.structs import replace
from serving import FAST, Serving

from nodekit_chain.work.records import State

pytestmark = pytest.mark.anyio


async def echo(data: Any) -> Any:
    return {"said": data}


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("revert with reason", "not today"),
        ("revert with error", "0x"),
        ("revert empty", "reverted without a reason"),
        ("burn", ""),
        ("reenter", "Reentrancy"),
        ("refuse", "NodeNotAllowed"),
        ("unpaid", "InsufficientBalance"),
    ],
)
async def test_a_consumer_that_reverts_gets_no_transaction(contracts: Contracts, mode: str, reason: str) -> None:
    consumer = contracts.consumer(b"\x01")
    consumer.mode(mode)
    consumer.subscribe(["echo"])
    async with Serving(contracts, {"echo": echo}).running() as serving:
        [record] = await serving.until_final()
    assert record.state is State.FAILED
    assert record.reason.startswith(reason)
    assert serving.transactions() == []


async def test_a_payment_that_fails_is_tried_again_and_given_up(contracts: Contracts) -> None:
    consumer = contracts.consumer(b"\x01")
    poor = contracts.wallet(contracts.chain.owner)
    consumer.subscribe(["echo"], amount=100, wallet=poor.address)
    consumer.subscribe(["echo"], amount=100, wallet=consumer.address)
    key, address = contracts.chain.new_key()
    own = contracts.wallet(address)
    settings = replace(FAST, payment_address=own.address)
    async with Serving(contracts, {"echo": echo}, key=key, work=settings).running() as serving:
        records = await serving.until_final(2)
    assert [(one.state, one.reason) for one in records] == [
        (State.FAILED, "InsufficientAllowance"),
        (State.FAILED, "InvalidWallet"),
    ]
    assert [one.attempts for one in records] == [FAST.attempts - 1, 0]
    assert serving.transactions() == []


async def test_an_interval_that_others_have_delivered_meanwhile_is_left(contracts: Contracts) -> None:
    consumer = contracts.consumer(b"\x01")

    async def slow(data: Any) -> Any:
        contracts.coordinator.send("deliverCompute", id, 1, b"", b"", b"", contracts.chain.owner)
        return {}

    id = consumer.subscribe(["slow"])
    async with Serving(contracts, {"slow": slow}).running() as serving:
        [record] = await serving.until_final()
    assert (record.state, record.reason) == (State.EXPIRED, "IntervalCompleted")
    assert serving.transactions() == []


async def test_what_this_account_has_delivered_without_a_record_is_done(
    contracts: Contracts, chain: LocalChain
) -> None:
    consumer = contracts.consumer(b"\x01")
    key, address = chain.new_key()
    chain.rpc("anvil_impersonateAccount", address)

    async def slow(data: Any) -> Any:
        contracts.coordinator.send("deliverCompute", id, 1, b"", b"", b"", address, sender=address)
        return {}

    id = consumer.subscribe(["slow"], redundancy=2)
    async with Serving(contracts, {"slow": slow}, key=key).running() as serving:
        [record] = await serving.until_final()
    assert record.state is State.DONE
    assert len(serving.transactions()) == 1


async def test_what_was_delivered_is_not_computed_again_without_records(contracts: Contracts) -> None:
    calls: list[Any] = []

    async def counted(data: Any) -> Any:
        calls.append(data)
        return {}

    id = contracts.consumer(b"\x01").subscribe(["counted"], redundancy=2)
    async with Serving(contracts, {"counted": counted}).running() as first:
        await first.until_final()
    async with Serving(contracts, {"counted": counted}, key=first.key).running() as second:
        other = contracts.consumer(b"\x02").subscribe(["counted"])
        records = await second.until_final()
    assert [one.id for one in records] == [other]
    assert id != other
    assert len(calls) == 2


async def test_a_delivery_that_needs_too_much_gas_is_not_sent(contracts: Contracts) -> None:
    contracts.consumer(b"\x01").subscribe(["echo"])
    settings = replace(FAST, max_gas_limit=50_000)
    async with Serving(contracts, {"echo": echo}, work=settings).running() as serving:
        [record] = await serving.until_final()
    assert record.state is State.FAILED
    assert "more than max_gas_limit allows (50000)" in record.reason


async def test_a_result_that_no_transaction_holds_is_not_sent(contracts: Contracts) -> None:
    async def huge(data: Any) -> Any:
        return {"said": "x" * 200_000}

    contracts.consumer(b"\x01").subscribe(["huge"])
    async with Serving(contracts, {"huge": huge}, work=replace(FAST, attempts=1)).running() as serving:
        [record] = await serving.until_final()
    assert record.state is State.FAILED
    assert "bytes on the chain, more than" in record.reason


async def test_an_error_of_a_simulation_that_is_allowed_is_sent_with_all_gas(contracts: Contracts) -> None:
    consumer = contracts.consumer(b"\x01")
    consumer.mode("revert with reason")
    consumer.subscribe(["echo"])
    settings = replace(FAST, allowed_sim_errors=("Not Today",), attempts=2)
    async with Serving(contracts, {"echo": echo}, work=settings).running() as serving:
        [record] = await serving.until_final()
    assert record.state is State.FAILED
    transactions = serving.transactions()
    assert [one["receipt"]["status"] for one in transactions] == ["0x0", "0x0"]
    assert {int(one["gas"], 16) for one in transactions} == {settings.max_gas_limit}
