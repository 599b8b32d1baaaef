"""The watch on a real chain: what it reads, how often, and what it does about forks and endpoints that lag."""

from collections.abc import AsyncIterator

import msgspec
import pytest
from eth_abi.abi import decode
from local_chain import Contracts, LocalChain
from rpc_proxy import RpcProxy

from nodekit_chain.protocol.calls import UnreadableReply
from nodekit_chain.protocol.contracts import Reader
from nodekit_chain.rpc.endpoints import Endpoints
from nodekit_chain.rpc.questions import Question, Refused
from nodekit_chain.watching.blocks import WINDOW
from nodekit_chain.watching.watcher import MOST_LOG_BLOCKS, OtherChain, Watcher, WatchSettings

pytestmark = pytest.mark.anyio


@pytest.fixture
async def rpc(chain: LocalChain) -> AsyncIterator[Endpoints]:
    async with Endpoints([chain.url]) as rpc:
        yield rpc


EACH_BLOCK = WatchSettings(trail_head_blocks=0, starting_sub_id=0, batch_size=500, sleep_seconds=0.0)


def watcher(contracts: Contracts, rpc: Endpoints, **settings: object) -> Watcher:
    given = msgspec.structs.replace(EACH_BLOCK, **settings)
    return Watcher(rpc, contracts.coordinator.address, contracts.reader.address, given)


async def test_a_block_is_seen_once(contracts: Contracts, chain: LocalChain, rpc: Endpoints) -> None:
    watch = watcher(contracts, rpc)
    view = await watch.look()
    assert view is not None
    assert view.latest.number == view.trail.number == chain.height
    assert await watch.look() is None
    chain.mine()
    assert (await watch.look()) is not None


async def test_subscriptions_are_read_in_batches(contracts: Contracts, rpc: Endpoints) -> None:
    contracts.consumer().subscribe_times(25, ["a"])
    watch = watcher(contracts, rpc, batch_size=10, starting_sub_id=3)
    await watch.look()
    assert sorted(watch.catalogue.known) == list(range(4, 26))


async def test_the_watch_stays_behind_the_newest_block(contracts: Contracts, chain: LocalChain, rpc: Endpoints) -> None:
    watch = watcher(contracts, rpc, trail_head_blocks=2)
    consumer = contracts.consumer()
    consumer.subscribe(["a"])
    await watch.look()
    assert watch.catalogue.known == {}
    chain.mine(2)
    await watch.look()
    assert set(watch.catalogue.known) == {1}


async def test_a_cancellation_is_read_from_the_logs(contracts: Contracts, rpc: Endpoints) -> None:
    consumer = contracts.consumer()
    id = consumer.subscribe(["a"])
    watch = watcher(contracts, rpc)
    await watch.look()
    assert watch.catalogue.current(id) is not None
    consumer.cancel(id)
    consumer.cancel(id)
    await watch.look()
    assert watch.catalogue.current(id) is None


async def test_a_fork_is_followed_back_to_the_last_common_block(
    contracts: Contracts, chain: LocalChain, rpc: Endpoints
) -> None:
    consumer = contracts.consumer()
    kept, cancelled = consumer.subscribe(["a"]), consumer.subscribe(["a"])
    watch = watcher(contracts, rpc)
    for _ in range(3):
        chain.mine()
        await watch.look()
    common = chain.height
    gone = consumer.subscribe(["a"])
    consumer.cancel(cancelled)
    await watch.look()
    assert set(watch.catalogue.known) == {kept, cancelled, gone}
    chain.reorganise(2)
    chain.mine()
    view = await watch.look()
    assert view is not None
    assert view.fork == common
    assert set(watch.catalogue.known) == {kept, cancelled}
    assert watch.catalogue.current(cancelled) is not None
    chain.mine()
    view = await watch.look()
    assert view is not None
    assert view.fork is None


async def test_a_fork_above_the_trail_is_not_even_noticed(
    contracts: Contracts, chain: LocalChain, rpc: Endpoints
) -> None:
    watch = watcher(contracts, rpc, trail_head_blocks=3)
    chain.mine(5)
    await watch.look()
    chain.reorganise(2)
    chain.mine()
    view = await watch.look()
    assert view is not None
    assert view.fork is None


async def test_a_long_sleep_means_reading_all_again(contracts: Contracts, chain: LocalChain, rpc: Endpoints) -> None:
    consumer = contracts.consumer()
    id = consumer.subscribe(["a"])
    watch = watcher(contracts, rpc)
    await watch.look()
    consumer.cancel(id)
    chain.rpc("anvil_mine", hex(MOST_LOG_BLOCKS + 1))
    await watch.look()
    assert watch.catalogue.current(id) is None


async def test_what_is_known_stays_known_while_all_is_read_again(
    contracts: Contracts, chain: LocalChain, rpc: Endpoints
) -> None:
    id = contracts.consumer().subscribe(["a"])
    with RpcProxy(chain.url) as proxy:
        async with Endpoints([proxy.url]) as rpc:
            watch = watcher(contracts, rpc)
            await watch.look()
            chain.rpc("anvil_mine", hex(MOST_LOG_BLOCKS + 1))
            proxy.overrides["eth_call"] = "0x"
            with pytest.raises(UnreadableReply):
                await watch.look()
            assert watch.catalogue.current(id) is not None
            proxy.overrides.clear()
            assert await watch.look() is not None
            assert watch.catalogue.current(id) is not None


async def test_a_chain_with_another_first_block_or_far_fewer_blocks_is_not_followed(
    contracts: Contracts, chain: LocalChain, rpc: Endpoints
) -> None:
    given = rpc, contracts.coordinator.address, contracts.reader.address, EACH_BLOCK
    first, height = chain.block(0)["hash"], chain.height
    for genesis, newest in (("", 0), (first, height), (first, height + WINDOW)):
        assert await Watcher(*given, genesis=genesis, newest=newest).look() is not None
    with pytest.raises(
        OtherChain, match=f"started afresh .block 0 was 0x00, and is {first}.; give the node a new store"
    ):
        await Watcher(*given, genesis="0x00", newest=height).look()
    with pytest.raises(OtherChain, match=f"block {height + WINDOW + 1} was seen, and the newest is {height}"):
        await Watcher(*given, genesis=first, newest=height + WINDOW + 1).look()


async def test_an_endpoint_that_knows_no_first_block_will_do(contracts: Contracts, chain: LocalChain) -> None:
    with RpcProxy(chain.url) as proxy:
        proxy.refuses = lambda call: call["params"][0] == "0x0" if call["method"] == "eth_getBlockByNumber" else False
        async with Endpoints([proxy.url]) as rpc:
            watch = watcher(contracts, rpc)
            assert await watch.look() is not None
            assert watch.genesis == ""


async def test_an_endpoint_that_is_behind_takes_nothing_back(contracts: Contracts, chain: LocalChain) -> None:
    chain.mine(3)
    behind = chain.block(chain.height - 2)
    with RpcProxy(chain.url) as proxy:
        async with Endpoints([proxy.url]) as rpc:
            watch = watcher(contracts, rpc)
            view = await watch.look()
            proxy.overrides["eth_getBlockByNumber"] = behind
            assert await watch.look() is None
            assert watch.view == view


class Spoiling:
    """An RPC that answers garbage for a subscription, and for all batches with it."""

    def __init__(self, rpc: Endpoints, id: int, garbage: object) -> None:
        self._rpc, self._id, self._garbage = rpc, id, garbage

    async def batch(self, questions: list[Question]) -> list[object]:
        replies = await self._rpc.batch(questions)
        return [self._garbage if self._asks(one) else reply for one, reply in zip(questions, replies, strict=True)]

    def _asks(self, question: Question) -> bool:
        selector = f"0x{Reader.read_subscription_batch.selector.hex()}"
        if question.method != "eth_call" or not question.params[0]["data"].startswith(selector):
            return False
        data = bytes.fromhex(question.params[0]["data"][2:])
        start, end = decode(Reader.read_subscription_batch.inputs, data[4:])
        return bool(start <= self._id < end)


@pytest.mark.parametrize("garbage", ["0x", "0x1234", Refused("execution reverted"), 7])
async def test_a_row_that_makes_no_sense_is_set_aside(contracts: Contracts, rpc: Endpoints, garbage: object) -> None:
    contracts.consumer().subscribe_times(9, ["a"])
    spoiling = Spoiling(rpc, 4, garbage)
    watch = watcher(contracts, spoiling)  # type: ignore[arg-type]
    await watch.look()
    assert sorted(watch.catalogue.known) == [1, 2, 3, 5, 6, 7, 8, 9]
    assert "cannot be understood" in watch.catalogue.aside[4]


async def test_a_row_that_no_endpoint_can_read_now_is_read_with_a_later_block(
    contracts: Contracts, chain: LocalChain
) -> None:
    contracts.consumer().subscribe_times(9, ["a"])
    selector = f"0x{Reader.read_subscription_batch.selector.hex()}"
    with RpcProxy(chain.url) as proxy:
        proxy.refuses = lambda call: call["method"] == "eth_call" and call["params"][0]["data"].startswith(selector)
        async with Endpoints([proxy.url]) as rpc:
            watch = watcher(contracts, rpc)
            assert await watch.look() is not None
            assert (watch.catalogue.known, sorted(watch.catalogue.aside)) == ({}, [*range(1, 10)])
            assert proxy.requests < 12
            proxy.refuses = lambda call: False
            chain.mine()
            assert await watch.look() is not None
            assert (sorted(watch.catalogue.known), watch.catalogue.aside) == ([*range(1, 10)], {})


class FewLogs:
    """An RPC that refuses the logs of more than ten blocks, as some public endpoints do."""

    def __init__(self, rpc: Endpoints) -> None:
        self._rpc = rpc

    async def batch(self, questions: list[Question]) -> list[object]:
        replies = await self._rpc.batch(questions)
        return [
            Refused("eth_getLogs is limited to 10 blocks", code=-32600) if self._is_long(one) else reply
            for one, reply in zip(questions, replies, strict=True)
        ]

    def _is_long(self, question: Question) -> bool:
        if question.method != "eth_getLogs":
            return False
        query = question.params[0]
        return int(query["toBlock"], 16) - int(query["fromBlock"], 16) >= 10


async def test_logs_are_read_in_parts_where_an_endpoint_refuses_many_at_once(
    contracts: Contracts, chain: LocalChain, rpc: Endpoints
) -> None:
    consumer = contracts.consumer()
    first, last = consumer.subscribe(["a"]), consumer.subscribe(["a"])
    watch = watcher(contracts, FewLogs(rpc))  # type: ignore[arg-type]
    await watch.look()
    consumer.cancel(first)
    chain.rpc("anvil_mine", hex(45))
    consumer.cancel(last)
    assert await watch.look() is not None
    assert watch.catalogue.current(first) is watch.catalogue.current(last) is None


async def test_logs_that_no_endpoint_gives_mean_reading_all_again(contracts: Contracts, chain: LocalChain) -> None:
    consumer = contracts.consumer()
    kept, cancelled = consumer.subscribe(["a"]), consumer.subscribe(["a"])
    with RpcProxy(chain.url) as proxy:
        async with Endpoints([proxy.url]) as rpc:
            watch = watcher(contracts, rpc)
            await watch.look()
            proxy.refuses = lambda call: call["method"] == "eth_getLogs"
            consumer.cancel(cancelled)
            chain.mine()
            later = consumer.subscribe(["a"])
            assert await watch.look() is not None
    assert [watch.catalogue.current(id) is not None for id in (kept, cancelled, later)] == [True, False, True]


@pytest.mark.parametrize("garbage", [None, 7, {}])
async def test_logs_that_are_no_list_are_a_fault_of_the_endpoint(
    contracts: Contracts, chain: LocalChain, garbage: object
) -> None:
    with RpcProxy(chain.url) as proxy:
        async with Endpoints([proxy.url]) as rpc:
            watch = watcher(contracts, rpc)
            await watch.look()
            proxy.overrides["eth_getLogs"] = garbage
            chain.mine()
            with pytest.raises(UnreadableReply, match="expected logs"):
                await watch.look()
            del proxy.overrides["eth_getLogs"]
            assert await watch.look() is not None
