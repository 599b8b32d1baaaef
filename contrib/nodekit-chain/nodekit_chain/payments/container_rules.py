"""Rules of containers that the plugin reads: who may use them on the chain, and what for."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import msgspec

from nodekit import Container, Refusal
from nodekit_chain.protocol.address import Address, InvalidAddress, parse_address
from nodekit_chain.protocol.subscription import Subscription

MOST_AMOUNT = 2**256 - 1


class ChainRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rules of one container.

    - `accepted_payments`: Smallest payment by token (address; zeros: ether), in its smallest unit. Empty: any
      payment, also none.
    - `allowed_addresses`: Contracts whose subscriptions on the chain may use it. Empty: all.
    - `allowed_delegate_addresses`: Contracts whose delegated subscriptions may use it. Empty: all.
    """

    accepted_payments: Mapping[str, int] = {}
    allowed_addresses: tuple[str, ...] = ()
    allowed_delegate_addresses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for key in ("accepted_payments", "allowed_addresses", "allowed_delegate_addresses"):
            for address in getattr(self, key):
                try:
                    parse_address(address)
                except InvalidAddress as error:
                    raise ValueError(f"{key}: {error}") from error
        for token, amount in self.accepted_payments.items():
            if not 0 <= amount <= MOST_AMOUNT:
                raise ValueError(f"accepted_payments: {token}: {amount} is no amount; expected 0 or more, in 256 bits")


class _Rules(msgspec.Struct, frozen=True):
    """The rules of a container, with addresses that can be compared."""

    payments: Mapping[Address, int]
    allowed: frozenset[Address]
    delegated: frozenset[Address]


def check_rules(
    subscription: Subscription, containers: Sequence[Container], *, delegated: bool, paid_to: Address | None
) -> None:
    """Raise the `Refusal` of a subscription that the rules of its containers do not allow.

    `paid_to` is the wallet of the node, or None if it has none.
    """
    if not containers[0].rules.get("external", True):
        raise Refusal("First container must be external", first_container=containers[0].id)
    if subscription.needs_proof and not containers[-1].rules.get("generates_proofs", False):
        raise Refusal("Container does not generate proof", container=containers[-1].id)
    rules = [_rules_of(container) for container in containers]
    for container, rule in zip(containers, rules, strict=True):
        allowed = rule.delegated if delegated else rule.allowed
        if allowed and subscription.owner not in allowed:
            raise Refusal("Container not allowed for address", container=container.id, address=subscription.owner)
    if subscription.payment_amount and paid_to is None:
        raise Refusal("Node takes no payment", payment_amount=str(subscription.payment_amount))
    _check_amount(subscription, containers, rules)


def _check_amount(subscription: Subscription, containers: Sequence[Container], rules: Sequence[_Rules]) -> None:
    token, least = subscription.payment_token, 0
    for container, rule in zip(containers, rules, strict=True):
        if not rule.payments:
            continue
        if token not in rule.payments:
            raise Refusal("Payment token not accepted", container=container.id, payment_token=token)
        least += rule.payments[token]
    if subscription.payment_amount < least:
        shown = {"payment_amount": str(subscription.payment_amount), "least": str(least)}
        raise Refusal("Payment too low", payment_token=token, **shown)


def _rules_of(container: Container) -> _Rules:
    own = {key: value for key, value in container.rules.items() if key in ChainRules.__struct_fields__}
    return _parsed(msgspec.json.encode(own))


@lru_cache(1024)
def _parsed(own: bytes) -> _Rules:
    rules = msgspec.json.decode(own, type=ChainRules)
    return _Rules(
        {parse_address(token): amount for token, amount in rules.accepted_payments.items()},
        frozenset(map(parse_address, rules.allowed_addresses)),
        frozenset(map(parse_address, rules.allowed_delegate_addresses)),
    )
