"""Delegated subscriptions among the requests for jobs: `POST /api/jobs`, alone or in a batch."""

from collections.abc import Sequence

import anyio

from nodekit import Identity, Node, Refusal, SubscriptionRequest, Unavailable
from nodekit_asgi.http.messages import Request
from nodekit_asgi.wire.jobs import WireSubscribed

AT_ONCE = 16
"""Number of subscriptions of one batch that plugins are asked about at a time: each may ask the chain."""


async def subscribed(
    request: Request, node: Node, asked: Sequence[SubscriptionRequest]
) -> Sequence[WireSubscribed | Refusal | Unavailable]:
    """Hand subscriptions to the node. Return the reply to each, or the objection, in their order."""
    answers: dict[int, WireSubscribed | Refusal | Unavailable] = {}
    identity = request.identity or Identity(client=request.client, address=request.address)
    limit = anyio.CapacityLimiter(AT_ONCE)

    async def subscribe(number: int, one: SubscriptionRequest) -> None:
        async with limit:
            try:
                await node.subscribe(one, identity)
                answers[number] = WireSubscribed()
            except (Refusal, Unavailable) as objection:
                answers[number] = objection

    async with anyio.create_task_group() as tasks:
        for number, one in enumerate(asked):
            tasks.start_soon(subscribe, number, one)
    return [answers[number] for number in range(len(asked))]
