"""The policy of payment: `work` asks it before a job, before a delivery, and after its end."""

from collections.abc import Sequence
from typing import Any

from nodekit import Container, Node, Refusal
from nodekit_chain.payments.container_rules import check_rules
from nodekit_chain.payments.escrow import Escrow
from nodekit_chain.payments.paying import check_payment, payment_questions
from nodekit_chain.protocol.address import Address
from nodekit_chain.protocol.subscription import Subscription
from nodekit_chain.rpc.questions import Question, Rpc


class PaymentPolicy:
    """The rules of a node for the subscriptions that it serves. See `nodekit_chain.work.context.Rules`."""

    def __init__(
        self, node: Node, rpc: Rpc, *, factory: Address, fee: Address, paid_to: Address | None, escrow: Escrow | None
    ) -> None:
        self._node, self._rpc = node, rpc
        self._factory, self._fee = factory, fee
        self._paid_to, self._escrow = paid_to, escrow

    async def objection(self, subscription: Subscription, containers: tuple[str, ...]) -> str | None:
        """Return why a subscription on the chain is not served now, or None. Raise the errors of the RPC."""
        try:
            self.check(subscription, containers, delegated=False)
            questions = self.questions(subscription)
            if questions:
                self.judge(subscription, await self._rpc.batch(questions))
        except Refusal as refusal:
            return str(refusal)
        return None

    def check(self, subscription: Subscription, containers: Sequence[str], *, delegated: bool) -> None:
        """Raise the `Refusal` of a subscription that the settings of its containers do not allow."""
        known = self._node.containers
        found: list[Container] = []
        for id in containers:
            if id not in known:
                raise Refusal("Container not supported", container=id)
            found.append(known[id])
        check_rules(subscription, found, delegated=delegated, paid_to=self._paid_to)

    def questions(self, subscription: Subscription) -> list[Question]:
        """Return what has to be asked about the payment of a subscription; none if it is free."""
        return payment_questions(subscription, self._factory, self._fee)

    def judge(self, subscription: Subscription, replies: Sequence[Any]) -> None:
        """Raise the `Refusal` of a subscription that cannot pay, by the replies to `questions`."""
        check_payment(subscription, replies)

    async def reserve(self, key: str, subscription: Subscription) -> str | None:
        """Reserve what a proof's delivery locks in the node's wallet, once for each key of a record.

        Return why that is not possible now, or None. Raise the errors of the RPC.
        """
        if self._escrow is None:
            return "the node has no payment_address, and a proof holds back the payment in the node's wallet"
        return await self._escrow.reserve(key, subscription)

    async def release(self, key: str) -> None:
        """Free what was reserved under a key, if anything was."""
        if self._escrow is not None:
            await self._escrow.release(key)
