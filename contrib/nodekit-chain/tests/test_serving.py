"""Subscriptions of a real chain, served by a node: each flow from the subscription to the delivered result."""

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


async def test_a_plain_output_is_json_where_the_settings_say_so(contracts: Contracts) -> None:
    consumer = contracts.consumer(b"\x01")
    id = consumer.subscribe(["echo"])
    work = replace(FAST, json_output=True)
    async with Serving(contracts, {"echo": echo}, work=work).running() as serving:
        await serving.until_final()
    [received] = consumer.received(id)
    (text,) = decode(["string"], received["output"])
    assert text == '{"said":"01"}'


async def test_each_interval_gets_one_result_of_its_own(contracts: Contracts, chain: LocalChain) -> None:
    consumer = contracts.consumer(b"\x01")
    id = consumer.subscribe(["echo"], period=100, frequency=3)
    async with Serving(contracts, {"echo": echo}).running() as serving:
        for number in (1, 2, 3):
            chain.mine(seconds=100)
            await serving.until(lambda records, n=number: sum(one.state is State.DONE for one in records) == n)
        chain.mine(seconds=100)
        records = await serving.until_final(3)
    assert [one["interval"] for one in consumer.received(id)] == [1, 2, 3]
    assert [one.interval for one in records] == [1, 2, 3]
    assert len(serving.transactions()) == 3


async def test_a_missed_interval_is_not_made_up_for(contracts: Contracts, chain: LocalChain) -> None:
    consumer = contracts.consumer(b"\x01")
    id = consumer.subscribe(["echo"], period=100, frequency=9)
    chain.mine(seconds=750)
    async with Serving(contracts, {"echo": echo}).running() as serving:
        await serving.until_final()
    assert [one["interval"] for one in consumer.received(id)] == [7]


async def test_a_lazy_result_is_kept_in_the_inbox(contracts: Contracts) -> None:
    consumer = contracts.consumer(b"\x01")
    id = consumer.subscribe(["echo"], lazy=True)
    async with Serving(contracts, {"echo": echo}).running() as serving:
        await serving.until_final()
    [received] = consumer.received(id)
    assert received["output"] == b""
    item = contracts.inbox.call("read", received["containerId"], serving.sender.address, received["index"])
    assert decode(["string"], item[4]) == ("{'said': '01'}",)


async def test_a_chain_of_containers_delivers_the_five_keys(contracts: Contracts) -> None:
    seen: list[Any] = []

    async def first(data: Any) -> Any:
        seen.append(data)
        return {"step": 1}

    async def last(data: Any) -> Any:
        seen.append(data)
        keys = ("raw_input", "processed_input", "raw_output", "processed_output", "proof")
        return dict(zip(keys, ("01", None, "03", "04", "05"), strict=True))

    consumer = contracts.consumer(b"\xab")
    id = consumer.subscribe(["first", "last"])
    async with Serving(contracts, {"first": first, "last": last}).running() as serving:
        await serving.until_final()
    assert seen == ["ab", {"step": 1}]
    [received] = consumer.received(id)
    assert decode(["bytes", "bytes"], received["input"]) == (b"\x01", b"")
    assert decode(["bytes", "bytes"], received["output"]) == (b"\x03", b"\x04")
    assert received["proof"] == b"\x05"


async def test_a_consumer_that_fails_to_say_what_it_asks_gets_a_result_for_nothing(contracts: Contracts) -> None:
    consumer = contracts.consumer(b"\xab")
    consumer.send("setWithoutInputs", True)
    id = consumer.subscribe(["echo"])
    async with Serving(contracts, {"echo": echo}).running() as serving:
        await serving.until_final()
    assert decode(["string"], consumer.received(id)[0]["output"]) == ("{'said': ''}",)


async def test_two_nodes_deliver_what_asks_for_two_results(contracts: Contracts) -> None:
    consumer = contracts.consumer(b"\x01")
    id = consumer.subscribe(["echo"], redundancy=2)
    async with (
        Serving(contracts, {"echo": echo}).running() as one,
        Serving(contracts, {"echo": echo}).running() as other,
    ):
        await one.until_final()
        await other.until_final()
    received = consumer.received(id)
    assert {one.sender.address, other.sender.address} == {result["node"] for result in received}
    assert sorted(result["response"] for result in received) == [1, 2]


async def test_one_of_two_nodes_delivers_what_asks_for_one_result(contracts: Contracts) -> None:
    consumer = contracts.consumer(b"\x01")
    id = consumer.subscribe(["echo"])
    async with (
        Serving(contracts, {"echo": echo}).running() as one,
        Serving(contracts, {"echo": echo}).running() as other,
    ):
        await one.until(lambda records: all(record.final for record in records))
        await other.until(lambda records: all(record.final for record in records))
        await one.until(lambda records: bool(consumer.received(id)))
        await one.until(lambda records: all(record.final for record in records))
        await other.until(lambda records: all(record.final for record in records))
    assert len(consumer.received(id)) == 1


async def test_a_result_is_never_delivered_for_another_interval(contracts: Contracts, chain: LocalChain) -> None:
    started, go = anyio.Event(), anyio.Event()

    async def slow(data: Any) -> Any:
        started.set()
        await go.wait()
        return {"said": data}

    consumer = contracts.consumer(b"\x01")
    id = consumer.subscribe(["slow"], period=100, frequency=2)
    chain.mine(seconds=100)
    async with Serving(contracts, {"slow": slow}).running() as serving:
        await started.wait()
        chain.mine(seconds=100)
        records = await serving.until(lambda records: any(one.final for one in records), mining=False)
        assert [one.state for one in records if one.interval == 1] == [State.EXPIRED]
        go.set()
        await serving.until(lambda records: len(records) == 2 and all(one.final for one in records))
    assert [one["interval"] for one in consumer.received(id)] == [2]


async def test_what_was_cancelled_before_it_began_is_not_run(contracts: Contracts) -> None:
    calls: list[Any] = []

    async def counted(data: Any) -> Any:
        calls.append(data)
        return {}

    consumer = contracts.consumer(b"\x01")
    cancelled, other = consumer.subscribe(["counted"]), consumer.subscribe(["counted"])
    consumer.cancel(cancelled)
    async with Serving(contracts, {"counted": counted}).running() as serving:
        await serving.until_final()
    assert [one["id"] for one in consumer.received()] == [other]
    assert len(calls) == 1


async def test_what_is_cancelled_while_it_runs_ends(contracts: Contracts) -> None:
    started = anyio.Event()

    async def endless(data: Any) -> Any:
        started.set()
        await anyio.sleep_forever()

    consumer = contracts.consumer(b"\x01")
    id = consumer.subscribe(["endless"])
    async with Serving(contracts, {"endless": endless}).running() as serving:
        await started.wait()
        assert (await serving.node.pending()).onchain == 1
        consumer.cancel(id)
        [record] = await serving.until_final()
        assert (await serving.node.pending()).total == 0
    assert (record.state, record.reason) == (State.EXPIRED, "the subscription was cancelled")
    assert serving.transactions() == []


async def test_a_container_that_fails_is_tried_again_and_then_given_up(contracts: Contracts) -> None:
    calls: list[Any] = []

    async def broken(data: Any) -> Any:
        calls.append(data)
        raise RuntimeError("no luck")

    contracts.consumer(b"\x01").subscribe(["broken"])
    async with Serving(contracts, {"broken": broken}).running() as serving:
        [record] = await serving.until_final()
    assert record.state is State.FAILED
    assert "no luck" in record.reason
    assert len(calls) == FAST.attempts


async def test_poison_does_not_hold_up_what_comes_later(contracts: Contracts) -> None:
    async def broken(data: Any) -> Any:
        raise RuntimeError("no luck")

    async def odd(data: Any) -> Any:
        return dict.fromkeys(("raw_input", "processed_input", "raw_output", "processed_output", "proof"), "xyz")

    async def text(data: Any) -> Any:
        return "no object"

    consumer, refusing = contracts.consumer(b"\x01"), contracts.consumer(b"\x02")
    refusing.mode("revert with error")
    burning = contracts.consumer()
    burning.mode("burn")
    for pipeline in (["unknown"], ["broken"], ["odd"], ["text"]):
        consumer.subscribe(pipeline)
    consumer.subscribe(["unknown"], period=1, frequency=1000)
    refusing.subscribe(["echo"])
    burning.subscribe(["echo"])
    id = consumer.subscribe(["echo"])
    functions = {"echo": echo, "broken": broken, "odd": odd, "text": text}
    async with Serving(contracts, functions).running() as serving:
        records = await serving.until_final(6)
        assert serving.engine.problems() == []
    assert [one["id"] for one in consumer.received()] == [id]
    reasons = {one.id: (one.state, one.reason) for one in records}
    assert reasons[8][0] is State.DONE
    assert {state for key, (state, _) in reasons.items() if key != 8} == {State.FAILED}
    assert len(serving.transactions()) == 1


async def test_a_consumer_that_is_repaired_gets_its_result(contracts: Contracts) -> None:
    consumer = contracts.consumer(b"\x01")
    consumer.mode("revert with reason")
    id = consumer.subscribe(["echo"])
    async with Serving(contracts, {"echo": echo}, work=replace(FAST, retry_seconds=0.5)).running() as serving:
        [record] = await serving.until(lambda records: any(one.attempts for one in records))
        assert "not today" in record.reason
        consumer.mode("take")
        await serving.until_final()
    assert len(consumer.received(id)) == 1


async def test_thirty_callbacks_of_one_block_arrive_with_the_next(contracts: Contracts, chain: LocalChain) -> None:
    consumer = contracts.consumer(b"\x01")
    chain.automine(False)
    async with Serving(contracts, {"echo": echo}).running() as serving:
        chain.rpc(
            "eth_sendTransaction",
            {
                "from": chain.owner,
                "to": consumer.address,
                "gas": hex(90_000_000),
                "data": "0x" + consumer.data("subscribeTimes", 30, "echo", 1, 0).hex(),
            },
        )
        chain.mine()
        before = chain.height
        await serving.until(lambda records: sum(one.state is State.SIGNED for one in records) == 30, mining=False)
        chain.mine()
        await serving.until(lambda records: sum(one.state is State.MINED for one in records) == 30, mining=False)
        assert chain.height - before == 1
    assert len(consumer.received()) == 30
    assert len(serving.transactions()) == 30
