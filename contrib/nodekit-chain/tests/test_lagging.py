"""Endpoints that are behind, or refuse a question for a while: what they say is not the end of a result."""

from collections.abc import Sequence
from typing import Any

import pytest
from local_chain import Contracts, LocalChain
from msgspec.structs import replace
from serving import FAST, Serving

from nodekit_chain.protocol.contracts import Coordinator
from nodekit_chain.rpc.questions import Question, Refused
from nodekit_chain.work.records import State

pytestmark = pytest.mark.anyio


async def echo(data: Any) -> Any:
    return {"said": data}


def refuse_deliveries(serving: Serving, refusal: Refused, times: int) -> list[str]:
    """Let that many simulations fail, as on an endpoint that is behind. Return the methods that were refused."""
    ask, refused = serving.rpc.batch, list[str]()

    def is_delivery(question: Question) -> bool:
        selector = f"0x{Coordinator.deliver_compute.selector.hex()}"
        return question.method in ("eth_call", "eth_estimateGas") and question.params[0]["data"].startswith(selector)

    async def batch(questions: Sequence[Question]) -> list[Any]:
        replies = await ask(questions)
        if len(refused) < times and any(map(is_delivery, questions)):
            refused.append(questions[0].method)
            return [refusal if is_delivery(one) else reply for one, reply in zip(questions, replies, strict=True)]
        return replies

    serving.rpc.batch = batch  # type: ignore[method-assign]
    return refused


@pytest.mark.parametrize(
    ("selector", "period"), [("1a00354f", 0), ("4db310c3", 1000)], ids=["SubscriptionNotFound", "IntervalMismatch"]
)
async def test_an_endpoint_that_is_behind_does_not_end_a_result(
    contracts: Contracts, chain: LocalChain, selector: str, period: int
) -> None:
    consumer = contracts.consumer(b"\x01")
    id = consumer.subscribe(["echo"], period=period)
    chain.mine(seconds=1000)
    serving = Serving(contracts, {"echo": echo}, work=replace(FAST, retry_seconds=0.01))
    refused = refuse_deliveries(serving, Refused("execution reverted", code=3, data=bytes.fromhex(selector)), 2)
    async with serving.running():
        [record] = await serving.until_final()
    assert len(refused) == 2
    assert record.state is State.DONE, record.reason
    assert len(consumer.received(id)) == len(serving.transactions()) == 1


async def test_an_error_of_an_endpoint_is_no_attempt_of_a_delivery(contracts: Contracts) -> None:
    consumer = contracts.consumer(b"\x01")
    id = consumer.subscribe(["echo"])
    serving = Serving(contracts, {"echo": echo}, work=replace(FAST, retry_seconds=0.01))
    refused = refuse_deliveries(serving, Refused("Internal error", code=-32603), 6)
    async with serving.running():
        [record] = await serving.until_final()
    assert len(refused) == 6
    assert (record.state, record.attempts) == (State.DONE, 0), record.reason
    assert len(consumer.received(id)) == 1
