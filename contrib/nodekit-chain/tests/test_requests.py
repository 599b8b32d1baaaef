"""Requests to the endpoints: their number, and what a node does while they fail."""

from collections.abc import Mapping
from typing import Any

import anyio
import pytest
from eth_abi.abi import decode
from local_chain import Contracts, LocalChain
from msgspec.structs import replace
from rpc_proxy import Mode, RpcProxy
from serving import FAST, Serving

from nodekit_chain.protocol.contracts import Coordinator
from nodekit_chain.rpc.endpoints import EndpointSettings
from nodekit_chain.work.records import State

pytestmark = pytest.mark.anyio


async def echo(data: Any) -> Any:
    return {"said": data}


async def looks(proxy: RpcProxy, number: int) -> None:
    """Wait for so many further requests."""
    before = proxy.requests
    with anyio.fail_after(60):
        while proxy.requests < before + number:
            await anyio.sleep(0.01)


async def until_seen(serving: Serving) -> None:
    """Wait until the node has done what there was to do in the newest block."""
    with anyio.fail_after(60):
        while serving.engine.view is None or serving.engine.view.latest.number < serving.chain.height:
            await anyio.sleep(0.01)
    await looks_done(serving)


async def looks_done(serving: Serving) -> None:
    before = serving.requests
    with anyio.fail_after(60):
        while serving.requests < before + 3:
            await anyio.sleep(0.01)


async def test_inactive_subscriptions_cost_nothing_with_a_block(contracts: Contracts, chain: LocalChain) -> None:
    consumer = contracts.consumer(b"\x01")
    consumer.subscribe_times(990, ["unknown"], period=1, frequency=1_000_000)
    consumer.subscribe_times(10, ["echo"], period=1000, frequency=100)
    with RpcProxy(chain.url) as proxy:
        async with Serving(contracts, {"echo": echo}, urls=[proxy.url]).running() as serving:
            await until_seen(serving)
            assert serving.engine.view is not None
            assert sum((await serving.engine.status(serving.engine.view)).subscriptions.values()) == 1000
            proxy.forget_counts()
            for _ in range(20):
                chain.mine(seconds=1)
                await until_seen(serving)
            idle = proxy.methods.copy()
            assert idle["eth_call"] == 20  # the newest id
            assert idle["eth_getLogs"] == 20
            proxy.forget_counts()
            chain.mine(seconds=1000)
            await serving.until(lambda records: sum(one.final for one in records) == 10)
            active = proxy.methods
    assert len(consumer.received()) == 10
    # counts and responses; the inputs, the simulation and the estimate of each
    assert active["eth_call"] <= 10 * 4 + 1 + (blocks := active["eth_getLogs"])
    assert active["eth_estimateGas"] == active["eth_sendRawTransaction"] - resent(active) == 10
    assert active["eth_getTransactionReceipt"] <= 10 * blocks


def resent(methods: Any) -> int:
    """Return the number of transactions that were sent again, since a block came before them."""
    return max(0, int(methods["eth_sendRawTransaction"]) - 10)


@pytest.mark.parametrize("mode", ["busy", "garbage", "no json-rpc", "cut", "status 500", "other ids", "hang"])
async def test_a_node_goes_on_after_its_endpoint_has_failed(
    contracts: Contracts, chain: LocalChain, mode: Mode
) -> None:
    consumer = contracts.consumer(b"\x01")
    with RpcProxy(chain.url) as proxy:
        limit = EndpointSettings(call_seconds=1.0)
        async with Serving(contracts, {"echo": echo}, urls=[proxy.url], endpoints=limit).running() as serving:
            await until_seen(serving)
            with proxy.spoiled(mode):
                chain.mine()
                id = consumer.subscribe(["echo"])
                with anyio.fail_after(60):
                    while not serving.engine.problems():
                        await anyio.sleep(0.01)
                health = await serving.node.health()
                assert health.healthy
                assert "the chain cannot be followed: no RPC endpoint answers" in health.reasons[0]
                job = await serving.node.submit(request())
                [done] = await serving.node.wait([job.id])
                assert done.status.finished
            await serving.until_final()
            assert serving.engine.problems() == []
    assert len(consumer.received(id)) == len(serving.transactions()) == 1


def request() -> Any:
    from nodekit import JobRequest

    return JobRequest.of("echo", data={})


async def test_a_node_outlives_an_endpoint_that_refuses_connections(contracts: Contracts, chain: LocalChain) -> None:
    consumer = contracts.consumer(b"\x01")
    with RpcProxy(chain.url) as proxy:
        async with Serving(contracts, {"echo": echo}, urls=[proxy.url]).running() as serving:
            await until_seen(serving)
            proxy.close()
            id = consumer.subscribe(["echo"])
            with anyio.fail_after(60):
                while not serving.engine.problems():
                    await anyio.sleep(0.01)
            proxy.listen()
            await serving.until_final()
    assert len(consumer.received(id)) == 1


async def test_another_endpoint_takes_over_from_one_that_fails(contracts: Contracts, chain: LocalChain) -> None:
    consumer = contracts.consumer(b"\x01")
    with RpcProxy(chain.url) as first, RpcProxy(chain.url) as second:
        async with Serving(contracts, {"echo": echo}, urls=[first.url, second.url]).running() as serving:
            await until_seen(serving)
            first.close()
            id = consumer.subscribe(["echo"])
            await serving.until_final()
            assert serving.engine.problems() == []
        assert second.requests
    assert len(consumer.received(id)) == 1


async def test_a_transaction_that_an_endpoint_swallows_is_sent_again(contracts: Contracts, chain: LocalChain) -> None:
    consumer = contracts.consumer(b"\x01")
    with RpcProxy(chain.url) as proxy, proxy.spoiled("lose transactions"):
        async with Serving(contracts, {"echo": echo}, urls=[proxy.url]).running() as serving:
            id = consumer.subscribe(["echo"])
            with anyio.fail_after(60):
                while len(proxy.lost) < 2:
                    chain.mine()
                    await anyio.sleep(0.05)
            proxy.mode = "pass"
            await serving.until_final()
    assert len(consumer.received(id)) == len(serving.transactions()) == 1


async def test_a_transaction_that_an_endpoint_took_before_it_died_is_sent_to_the_next_one(
    contracts: Contracts, chain: LocalChain
) -> None:
    consumer = contracts.consumer(b"\x01")
    with RpcProxy(chain.url) as first, RpcProxy(chain.url) as second, first.spoiled("lose transactions"):
        never_replaced, urls = replace(FAST, bump_after_blocks=1000), [first.url, second.url]
        async with Serving(contracts, {"echo": echo}, urls=urls, work=never_replaced).running() as serving:
            id = consumer.subscribe(["echo"])
            await serving.until(lambda records: bool(first.lost))
            assert second.methods["eth_sendRawTransaction"] == 0
            first.close()
            [record] = await serving.until_final()
    assert {*first.lost} == {f"0x{one.raw.hex()}" for one in record.sent}
    assert len(consumer.received(id)) == len(serving.transactions()) == 1


def is_delivery(call: Mapping[str, Any], id: int | None = None) -> bool:
    """Return True for the simulation or the estimate of a delivery: of any subscription, or of one."""
    selector = Coordinator.deliver_compute.selector
    if call["method"] not in ("eth_call", "eth_estimateGas"):
        return False
    data = bytes.fromhex(call["params"][0]["data"][2:])
    return data.startswith(selector) and id in (None, int.from_bytes(data[4:36]))


async def test_a_delivery_that_one_endpoint_cannot_simulate_is_sent_by_another(
    contracts: Contracts, chain: LocalChain
) -> None:
    id = (consumer := contracts.consumer(b"\x01")).subscribe(["echo"])
    with RpcProxy(chain.url) as first, RpcProxy(chain.url) as second:
        first.refuses = is_delivery
        async with Serving(contracts, {"echo": echo}, urls=[first.url, second.url]).running() as serving:
            [record] = await serving.until_final()
            assert serving.engine.problems() == []
    assert (record.state, record.attempts) == (State.DONE, 0)
    assert len(consumer.received(id)) == 1


async def test_a_question_that_no_endpoint_can_answer_holds_up_no_other(
    contracts: Contracts, chain: LocalChain
) -> None:
    consumer, mute = contracts.consumer(b"\x01"), contracts.consumer(b"\x02")
    spoiled, inputless = consumer.subscribe(["echo"]), mute.subscribe(["echo"])

    def is_poison(call: Mapping[str, Any]) -> bool:
        asks_input = call["method"] == "eth_call" and call["params"][0]["to"] == mute.address
        return is_delivery(call, spoiled) or asks_input

    with RpcProxy(chain.url) as proxy:
        proxy.refuses = is_poison
        async with Serving(contracts, {"echo": echo}, urls=[proxy.url]).running() as serving:
            await serving.until(lambda records: len(records) == 2)
            id = consumer.subscribe(["echo"])
            await serving.until(lambda records: bool(consumer.received(id)))
            assert serving.engine.problems() == []
            assert [one.attempts for one in await serving.records()] == [0] * 3
            proxy.refuses = lambda call: False
            await serving.until_final(3)
    assert len(consumer.received(spoiled)) == 1
    [received] = mute.received(inputless)
    assert decode(["string"], received["output"]) == ("{'said': '02'}",)


async def test_an_endpoint_without_batches_will_do(contracts: Contracts, chain: LocalChain) -> None:
    consumer = contracts.consumer(b"\x01")
    id = consumer.subscribe(["echo"])
    with RpcProxy(chain.url) as proxy, proxy.spoiled("no batches"):
        async with Serving(contracts, {"echo": echo}, urls=[proxy.url]).running() as serving:
            await serving.until_final()
    assert len(consumer.received(id)) == 1
