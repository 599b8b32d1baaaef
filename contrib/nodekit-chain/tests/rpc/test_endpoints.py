"""Endpoints: each failure is told apart, the next endpoint is asked, and the first one is used again after a repair."""

from collections.abc import Iterator

import anyio
import pytest
from local_chain import CHAIN_ID, Contracts, LocalChain
from rpc_proxy import Mode, RpcProxy

from nodekit.testing import VirtualClock
from nodekit_chain.protocol.contracts import Coordinator, Reader
from nodekit_chain.protocol.reverts import revert_of
from nodekit_chain.rpc.endpoint import endpoint_name
from nodekit_chain.rpc.endpoints import Endpoints, EndpointSettings
from nodekit_chain.rpc.failures import NoEndpoint
from nodekit_chain.rpc.questions import EndpointFault, Question, Refused, call, quantity, result_bytes

pytestmark = pytest.mark.anyio
HEIGHT = Question("eth_blockNumber")


@pytest.fixture
def first(chain: LocalChain) -> Iterator[RpcProxy]:
    with RpcProxy(chain.url) as proxy:
        yield proxy


@pytest.fixture
def second(chain: LocalChain) -> Iterator[RpcProxy]:
    with RpcProxy(chain.url) as proxy:
        yield proxy


async def height(rpc: Endpoints) -> int:
    [reply] = await rpc.batch([HEIGHT])
    return quantity(reply)


async def test_many_questions_are_one_request(first: RpcProxy, contracts: Contracts) -> None:
    coordinator = contracts.coordinator.address
    async with Endpoints([first.url]) as rpc:
        await height(rpc)
        first.forget_counts()
        questions = [HEIGHT, call(coordinator, Coordinator.id.encode()), Question("no_such_method")]
        replies = await rpc.batch(questions)
        assert (first.requests, first.methods.total()) == (1, 3)
    assert quantity(replies[0]) == contracts.chain.height
    assert Coordinator.id.decode_one(result_bytes(replies[1])) == 1
    assert isinstance(replies[2], Refused)
    with pytest.raises(EndpointFault, match="Method not found"):
        quantity(replies[2])


async def test_more_questions_than_a_request_may_have_are_several(first: RpcProxy) -> None:
    async with Endpoints([first.url], EndpointSettings(most_questions=10)) as rpc:
        assert len(await rpc.batch([HEIGHT] * 35)) == 35
        assert first.requests == 4  # with the question for the chain


async def test_a_revert_comes_with_its_bytes(first: RpcProxy, contracts: Contracts) -> None:
    data = Coordinator.deliver_compute.encode(9, 1, b"", b"", b"", "0x" + "00" * 20)
    async with Endpoints([first.url]) as rpc:
        [reply] = await rpc.batch([call(contracts.coordinator.address, data)])
    assert isinstance(reply, Refused)
    assert revert_of(reply.data).name == "SubscriptionNotFound"


FAILURES: dict[Mode, str] = {
    "hang": "no answer within",
    "busy": r"too many requests \(429\)",
    "busy in json": "too many requests",
    "status 500": "status 500",
    "garbage": "no JSON-RPC: not UTF-8",
    "no json-rpc": "no JSON-RPC",
    "cut": "cannot be reached",
    "redirect": "status 302",
    "endless": "longer than",
    "other ids": "a question that was not asked",
}


@pytest.mark.parametrize("mode", FAILURES)
async def test_a_failure_is_told_apart_and_the_next_endpoint_answers(
    mode: Mode, first: RpcProxy, second: RpcProxy, chain: LocalChain
) -> None:
    settings = EndpointSettings(call_seconds=1.0 if mode == "hang" else 30.0, most_bytes=1 << 20)
    first.mode = mode
    async with Endpoints([first.url, second.url], settings, random=lambda: 1e6) as rpc:
        assert await height(rpc) == chain.height
        assert [state.failures for state in rpc.states] == [1, 0]
        [problem] = rpc.problems
        assert problem.startswith(f"the RPC endpoint 127.0.0.1:{first.port} fails: ")
        await height(rpc)
        assert [state.requests for state in rpc.states] == [1, 2]  # the first one is left alone
    async with Endpoints([first.url], settings) as rpc:
        with pytest.raises(NoEndpoint, match=FAILURES[mode]) as caught:
            await height(rpc)
        assert caught.value.retry_after > 0


async def test_a_refused_connection_fails_over(first: RpcProxy, second: RpcProxy, chain: LocalChain) -> None:
    first.close()
    async with Endpoints([first.url, second.url]) as rpc:
        assert await height(rpc) == chain.height
        assert rpc.problems[0].endswith("it cannot be reached: Connection refused")


async def test_the_preferred_endpoint_is_used_again_after_a_repair(
    first: RpcProxy, second: RpcProxy, chain: LocalChain, clock: VirtualClock
) -> None:
    async with Endpoints([first.url, second.url], random=lambda: 1.0) as rpc:
        first.close()
        await height(rpc)
        first.listen()
        await height(rpc)
        assert first.requests == 0
        await clock.advance(1.01)
        assert await height(rpc) == chain.height
        assert first.requests == 1
        assert rpc.problems == []


async def test_pauses_double_and_an_endpoint_may_ask_for_longer_ones(first: RpcProxy, clock: VirtualClock) -> None:
    async def pauses(times: int) -> list[float]:
        found = []
        async with Endpoints([first.url], random=lambda: 1.0) as rpc:
            for _ in range(times):
                with pytest.raises(NoEndpoint) as caught:
                    await height(rpc)
                found.append(round(caught.value.retry_after))
                await clock.advance(caught.value.retry_after + 0.01)
        return found

    first.mode = "status 500"
    assert await pauses(8) == [1, 2, 4, 8, 16, 32, 60, 60]
    first.mode = "busy"
    assert await pauses(1) == [2]


async def test_requests_that_fail_together_count_as_one_failure(first: RpcProxy) -> None:
    first.mode = "status 500"

    async def failing(rpc: Endpoints) -> None:
        with pytest.raises(NoEndpoint):
            await height(rpc)

    async with Endpoints([first.url]) as rpc:
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(failing, rpc)
        assert rpc.states[0].failures == 1


async def test_an_endpoint_that_takes_no_batches_is_asked_one_by_one(first: RpcProxy, chain: LocalChain) -> None:
    first.mode = "no batches"
    async with Endpoints([first.url]) as rpc:
        replies = await rpc.batch([HEIGHT] * 5)
        assert [quantity(reply) for reply in replies] == [chain.height] * 5
        first.forget_counts()
        await rpc.batch([HEIGHT] * 3)
        assert first.requests == 3
        assert rpc.problems == []


async def test_a_question_that_one_endpoint_fails_at_goes_to_the_next_one(first: RpcProxy, second: RpcProxy) -> None:
    first.refuses = lambda call: call["method"] == "eth_gasPrice"
    async with Endpoints([first.url, second.url]) as rpc:
        for _ in range(2):
            second.forget_counts()
            replies = await rpc.batch([HEIGHT, Question("eth_gasPrice"), HEIGHT])
            assert [isinstance(reply, Refused) for reply in replies] == [False] * 3
        assert second.methods == {"eth_gasPrice": 1}
        assert (first.requests, rpc.problems) == (2, [])
        second.refuses = first.refuses
        replies = await rpc.batch([HEIGHT, Question("eth_gasPrice"), HEIGHT])
        assert [isinstance(reply, Refused) for reply in replies] == [False, True, False]
        second.close()
        replies = await rpc.batch([HEIGHT, Question("eth_gasPrice"), HEIGHT])
        assert [isinstance(reply, Refused) for reply in replies] == [False, True, False]


async def test_one_question_that_spoils_a_batch_is_found_and_later_batches_are_as_long_as_before(
    first: RpcProxy,
) -> None:
    first.mode, first.refuses = "one error", lambda call: call["method"] == "eth_gasPrice"
    async with Endpoints([first.url]) as rpc:
        replies = await rpc.batch([*[HEIGHT] * 5, Question("eth_gasPrice"), HEIGHT])
        assert [isinstance(reply, Refused) for reply in replies] == [False] * 5 + [True, False]
        first.forget_counts()
        await rpc.batch([HEIGHT] * 8)
        assert (first.requests, rpc.problems) == (1, [])


async def test_a_connection_that_was_closed_meanwhile_is_no_failure(first: RpcProxy, chain: LocalChain) -> None:
    async with Endpoints([first.url]) as rpc:
        await height(rpc)
        first.close()
        first.listen()
        assert await height(rpc) == chain.height
        assert rpc.problems == []


async def test_an_endpoint_of_another_chain_is_not_used(first: RpcProxy, second: RpcProxy, chain: LocalChain) -> None:
    first.overrides["eth_chainId"] = "0x1"
    async with Endpoints([first.url, second.url], EndpointSettings(chain_id=CHAIN_ID)) as rpc:
        assert await height(rpc) == chain.height
        assert rpc.problems[0].endswith(f" fails: it serves chain 1, not {CHAIN_ID}; correct rpc_url")


async def test_the_first_answer_says_which_chain_it_is(first: RpcProxy, second: RpcProxy) -> None:
    second.overrides["eth_chainId"] = "0x1"
    async with Endpoints([first.url, second.url]) as rpc:
        await height(rpc)
        assert rpc.chain_id == CHAIN_ID
        first.close()
        with pytest.raises(NoEndpoint, match="it serves chain 1, not 31337"):
            await height(rpc)


async def test_keys_in_urls_are_never_shown(chain: LocalChain) -> None:
    urls = [f"http://user:secret@127.0.0.1:{chain.port}/v3/secret?key=secret", "http://nobody.invalid/secret"]
    async with Endpoints([urls[1]]) as rpc:
        with pytest.raises(NoEndpoint) as caught:
            await height(rpc)
        shown = f"{caught.value!r} {caught.value} {rpc.states} {rpc.problems} {caught.value.__cause__!r}"
    assert "nobody.invalid" in shown
    assert "secret" not in shown
    assert endpoint_name(urls[0]) == f"127.0.0.1:{chain.port}"


@pytest.mark.parametrize("url", ["", "ws://node", "node:8545", "http://", "file:///etc/passwd"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected http"):
        endpoint_name(url)


async def test_hundreds_of_subscriptions_come_in_one_answer(first: RpcProxy, contracts: Contracts) -> None:
    contracts.consumer().subscribe_times(200, ["a"])
    async with Endpoints([first.url]) as rpc:
        data = Reader.read_subscription_batch.encode(1, 251)
        [reply] = await rpc.batch([call(contracts.reader.address, data)])
    rows = Reader.read_subscription_batch.decode_one(result_bytes(reply))
    assert [row[0] != "0x" + "00" * 20 for row in rows] == [True] * 200 + [False] * 50
