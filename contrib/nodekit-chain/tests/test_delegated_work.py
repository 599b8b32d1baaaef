"""Delegated subscriptions: created on the chain with their first result, and then served like others."""

from typing import Any

import anyio
import pytest
from delegation import Owner, work
from eth_abi.abi import decode
from local_chain import Contracts, LocalChain
from serving import Serving

from nodekit_chain.work.records import State

pytestmark = pytest.mark.anyio


async def echo(data: Any) -> Any:
    return {"said": data}


def said(received: dict[str, Any]) -> str:
    return str(decode(["string"], received["output"])[0])


async def test_a_recurring_subscription_goes_on_with_input_from_the_chain(
    contracts: Contracts, chain: LocalChain
) -> None:
    owner = Owner(contracts)
    owner.consumer.send("setInputs", b"\xaa")
    subscription = owner.subscription(["echo"], period=1000, frequency=3)
    async with Serving(contracts, {"echo": echo}).running() as serving:
        assert await serving.engine.accept(work(owner, subscription))
        assert not await serving.engine.accept(work(owner, subscription))
        [record] = await serving.until_final()
        assert (record.id, record.interval) == (1, 1)
        chain.mine(seconds=1000)
        await serving.until(lambda records: len(records) == 2 and all(one.final for one in records))
    received = owner.consumer.received()
    assert [one["interval"] for one in received] == [1, 2]
    assert [said(one) for one in received] == ["{'said': {'asked': 0}}", "{'said': 'aa'}"]
    assert len(serving.transactions()) == 2


async def test_a_subscription_that_begins_later_waits(contracts: Contracts, chain: LocalChain) -> None:
    owner = Owner(contracts)
    subscription = owner.subscription(["echo"], active_at=chain.timestamp + 1000)
    async with Serving(contracts, {"echo": echo}).running() as serving:
        await serving.engine.accept(work(owner, subscription))
        chain.mine(3)
        await serving.until(lambda records: len(records) == 1)
        await anyio.sleep(0)
        assert [one.state for one in await serving.records()] == [State.SEEN]
        chain.mine(seconds=1000)
        await serving.until_final()
    assert len(owner.consumer.received()) == 1


async def test_a_signature_that_expires_before_the_work_begins_ends_it(contracts: Contracts, chain: LocalChain) -> None:
    owner = Owner(contracts)
    subscription = owner.subscription(["echo"], active_at=chain.timestamp + 1000)
    async with Serving(contracts, {"echo": echo}).running() as serving:
        await serving.engine.accept(work(owner, subscription, expiry=chain.timestamp + 500))
        chain.mine(seconds=1000)
        [record] = await serving.until_final()
    assert (record.state, record.reason) == (State.EXPIRED, "its signature has expired")
    assert serving.transactions() == []


async def test_a_subscription_that_missed_its_interval_is_created_with_the_next(
    contracts: Contracts, chain: LocalChain
) -> None:
    started, go = anyio.Event(), anyio.Event()

    async def slow(data: Any) -> Any:
        started.set()
        await go.wait()
        return {"said": data}

    owner = Owner(contracts)
    subscription = owner.subscription(["echo"], period=1000, frequency=2)
    async with Serving(contracts, {"echo": slow}).running() as serving:
        await serving.engine.accept(work(owner, subscription))
        await started.wait()
        chain.mine(seconds=1000)
        await serving.until(lambda records: records[0].interval != 1, mining=False)
        go.set()
        await serving.until(lambda records: bool(records) and all(one.final for one in records))
    assert [one["interval"] for one in owner.consumer.received()] == [2]
    assert len(serving.transactions()) == 1


async def test_two_nodes_serve_one_delegated_subscription(contracts: Contracts) -> None:
    owner = Owner(contracts)
    subscription = owner.subscription(["echo"], redundancy=2)
    async with (
        Serving(contracts, {"echo": echo}).running() as one,
        Serving(contracts, {"echo": echo}).running() as other,
    ):
        for serving in (one, other):
            await serving.engine.accept(work(owner, subscription))
        await one.until_final()
        await other.until_final()
    assert sorted(result["response"] for result in owner.consumer.received()) == [1, 2]
    assert contracts.coordinator.call("id") == 2


async def test_thirty_at_once_are_all_delivered(contracts: Contracts) -> None:
    owner = Owner(contracts)
    async with Serving(contracts, {"echo": echo}).running() as serving:
        for nonce in range(30):
            await serving.engine.accept(work(owner, owner.subscription(["echo"]), nonce=nonce))
        await serving.until_final(30)
    assert len(owner.consumer.received()) == len(serving.transactions()) == 30


async def test_an_accepted_subscription_is_served_before_the_next_block(
    contracts: Contracts, chain: LocalChain
) -> None:
    owner = Owner(contracts)
    async with Serving(contracts, {"echo": echo}).running() as serving:
        with anyio.fail_after(30):
            while serving.engine.view is None:
                await anyio.sleep(0.01)
        chain.automine(False)
        await serving.engine.accept(work(owner, owner.subscription(["echo"])))
        await serving.until(lambda records: records[0].state is State.SIGNED, mining=False)


async def test_a_subscription_that_comes_by_http_and_from_the_chain_is_delivered_by_one_transaction(
    contracts: Contracts, chain: LocalChain
) -> None:
    owner, go = Owner(contracts), anyio.Event()
    subscription = owner.subscription(["echo"], redundancy=2)

    async def slow(data: Any) -> Any:
        await go.wait()
        return {"said": data}

    async with Serving(contracts, {"echo": echo}).running() as other:  # creates it on the chain
        await other.engine.accept(work(owner, subscription))
        await other.until_final()
    async with Serving(contracts, {"echo": slow}).running() as serving:
        await serving.until(lambda records: any(one.state is State.RUNNING for one in records))
        await serving.engine.accept(work(owner, subscription))
        await serving.until(lambda records: sum(one.state is State.RUNNING for one in records) == 2)
        chain.automine(False)
        go.set()
        await serving.until(lambda records: any(one.state is State.SIGNED for one in records), mining=False)
        await anyio.sleep(0.5)
        await serving.until_final(2)
        assert len(serving.transactions()) == 1
    assert sorted(result["response"] for result in owner.consumer.received()) == [1, 2]
