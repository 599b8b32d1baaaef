"""Acceptance of delegated subscriptions: every check comes before the reply, and so does a durable record."""

import logging
from collections.abc import Sequence
from typing import Any, Protocol

from nodekit import Identity, Node, NodekitError, Refusal, SubscriptionRequest, Unavailable
from nodekit_chain.delegated.wire import Delegated, MalformedField, read
from nodekit_chain.payments.policy import PaymentPolicy
from nodekit_chain.protocol.address import Address
from nodekit_chain.protocol.calls import UnreadableReply
from nodekit_chain.protocol.contracts import Consumer, Coordinator
from nodekit_chain.protocol.delegated import Domain, UnreadableSignature
from nodekit_chain.protocol.keys import delegated_key
from nodekit_chain.protocol.subscription import Subscription
from nodekit_chain.rpc.questions import Question, Refused, Rpc, call, result_bytes
from nodekit_chain.watching.blocks import Block
from nodekit_chain.watching.pipelines import PipelineTable
from nodekit_chain.work.ledger import MOST_DATA_BYTES
from nodekit_chain.work.records import Delegation, State, Work, delegated_work_key

logger = logging.getLogger("nodekit.chain")

RETRY_SECONDS = 5
"""Pause that clients are told to make when the chain does not answer."""


class Keeper(Protocol):
    """The place where accepted subscriptions are kept."""

    async def accept(self, work: Work) -> bool:
        """Keep a record, durably. Return False if there is one of its owner and nonce already."""
        ...

    async def accepted(self, key: str) -> Work | None:
        """Return the record under a key."""
        ...


class Acceptance:
    """Checks delegated subscriptions for one coordinator, and keeps those that the node will serve.

    A signature has to be valid for at least `margin_seconds` more, so that there is time for the work.
    """

    def __init__(
        self,
        node: Node,
        rpc: Rpc,
        keeper: Keeper,
        policy: PaymentPolicy,
        pipelines: PipelineTable,
        domain: Domain,
        *,
        margin_seconds: int,
    ) -> None:
        self._node, self._rpc, self._keeper, self._policy = node, rpc, keeper, policy
        self._pipelines, self._domain, self._margin_seconds = pipelines, domain, margin_seconds

    async def accept(self, request: SubscriptionRequest, identity: Identity) -> Work:
        """Keep a delegated subscription, and return its record. One that is kept already is the same record.

        Raise `Refusal` if it will not be served, and `Unavailable` if the chain does not answer now.
        """
        delegated = read(request)
        if len(bytes(delegated.data)) > MOST_DATA_BYTES:
            raise MalformedField("data", f"has more than {MOST_DATA_BYTES} bytes")
        if (repeated := await self._repeated(delegated)) is not None:
            return repeated
        subscription = delegated.request.subscription
        self._pipelines.update(self._node.containers)
        containers = self._pipelines.containers(subscription.containers)
        if containers is None:
            raise Refusal("Container not supported", container=f"0x{subscription.containers.hex()}")
        self._policy.check(subscription, containers, delegated=True)
        try:
            id = await self._ask(delegated)
        except Refusal:
            raise
        except NodekitError as error:
            logger.warning("a delegated subscription of %s cannot be checked: %s", subscription.owner, error)
            raise Unavailable("the chain does not answer", retry_after_seconds=RETRY_SECONDS) from error
        return await self._keep(delegated, id, containers, identity)

    # -- the chain --------------------------------------------------------------------------------

    async def _ask(self, delegated: Delegated) -> int:
        """Return the id of a subscription that was created already, else 0.

        Raise the `Refusal` of one that the chain as it is now would not take.
        """
        request, subscription = delegated.request, delegated.request.subscription
        created = Coordinator.delegate_created_ids.encode(delegated_key(subscription.owner, request.nonce))
        block, id, signer, *paying = await self._rpc.batch(
            [
                Question("eth_getBlockByNumber", ("latest", False)),
                call(self._domain.coordinator, created),
                call(subscription.owner, Consumer.get_signer.encode()),
                *self._policy.questions(subscription),
            ]
        )
        now = Block.newest(block).timestamp
        known: int = Coordinator.delegate_created_ids.decode_one(result_bytes(id))
        self._check_signature(delegated, signer)
        if known:
            await self._compare(subscription, known, request.nonce)
        elif request.expiry <= now + self._margin_seconds:
            raise Refusal("Signature expired", expiry=request.expiry, now=now, margin_seconds=self._margin_seconds)
        if not subscription.frequency or not subscription.redundancy or subscription.is_over(now):
            raise Refusal("Subscription is over", frequency=subscription.frequency, now=now)
        self._policy.judge(subscription, paying)
        return known

    def _check_signature(self, delegated: Delegated, reply: Any) -> None:
        owner = delegated.request.subscription.owner
        try:
            expected: Address = Consumer.get_signer.decode_one(result_bytes(reply))
        except (Refused, UnreadableReply) as error:
            raise Refusal("Owner has no signer", owner=owner) from error
        try:
            signer = delegated.request.signer(delegated.signature, self._domain)
        except UnreadableSignature as error:
            raise Refusal("Invalid signature", problem=str(error)) from error
        if signer != expected:
            raise Refusal("Signer mismatch", signer=signer, expected=expected, chain_id=self._domain.chain_id)

    async def _compare(self, subscription: Subscription, id: int, nonce: int) -> None:
        """Raise a `Refusal` if another subscription was created under the nonce: that one would be delivered."""
        (reply,) = await self._rpc.batch([call(self._domain.coordinator, Coordinator.get_subscription.encode(id))])
        found = Subscription.from_row(Coordinator.get_subscription.decode_one(result_bytes(reply)))
        if found != subscription:
            raise Refusal("Nonce already used", owner=subscription.owner, nonce=nonce, subscription=id)

    # -- the record -------------------------------------------------------------------------------

    async def _repeated(self, delegated: Delegated) -> Work | None:
        """Return the record of a request that is sent again as it was: the client may not have heard the reply.

        It was checked then. Now the chain may say otherwise: it was served, and paid for.
        """
        request = delegated.request
        kept = await self._keeper.accepted(
            delegated_work_key(self._domain.coordinator, request.subscription.owner, request.nonce)
        )
        if kept is None or kept.delegation is None or kept.delegation.signature != delegated.signature:
            return None
        return _served(kept) if _same(kept, delegated) else None

    async def _keep(self, delegated: Delegated, id: int, containers: Sequence[str], identity: Identity) -> Work:
        request, now = delegated.request, self._node.now()
        work = Work(
            coordinator=self._domain.coordinator,
            subscription=request.subscription,
            id=id,
            containers=tuple(containers),
            delegation=Delegation(
                nonce=request.nonce,
                expiry=request.expiry,
                signature=delegated.signature,
                data=delegated.data,
            ),
            seen_at=now,
            changed_at=now,
        )
        if await self._keeper.accept(work):
            logger.info("%s: accepted from client %s", work.key, identity.client)
            return work
        kept = await self._keeper.accepted(work.key)
        if kept is None or not _same(kept, delegated):
            raise Refusal("Nonce already used", owner=request.subscription.owner, nonce=request.nonce)
        return _served(kept)


def _same(kept: Work, delegated: Delegated) -> bool:
    """Return True if a request repeats the one that was kept."""
    if kept.subscription != delegated.request.subscription or kept.delegation is None:
        return False
    return bytes(kept.delegation.data) == bytes(delegated.data)


def _served(kept: Work) -> Work:
    """Return the record, unless it has ended without a result: then raise a `Refusal`."""
    if kept.state in (State.FAILED, State.EXPIRED):
        raise Refusal("Subscription was not served", state=str(kept.state), reason=kept.reason)
    return kept
