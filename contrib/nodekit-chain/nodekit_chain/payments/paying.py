"""Facts of the chain about a payment: the wallet that pays, and the verifier that takes its part."""

from collections.abc import Sequence
from typing import Any

from nodekit import Refusal
from nodekit_chain.protocol.address import ZERO_ADDRESS, Address
from nodekit_chain.protocol.calls import Function, UnreadableReply
from nodekit_chain.protocol.contracts import Fee, Token, Verifier, Wallet, WalletFactory
from nodekit_chain.protocol.subscription import Subscription
from nodekit_chain.rpc.questions import Question, Refused, call, quantity, result_bytes

PARTS = 10_000
"""Parts in which the protocol counts its fee."""


def balance_question(token: Address, holder: Address) -> Question:
    """Return the question for a balance in ether or a token."""
    if _is_ether(token):
        return Question("eth_getBalance", (holder, "latest"))
    return call(token, Token.balance_of.encode(holder))


def balance(token: Address, reply: Any) -> int:
    """Return the balance. Raise `Refused` or `UnreadableReply`, also for a token that is no token."""
    return quantity(reply) if _is_ether(token) else int(Token.balance_of.decode_one(result_bytes(reply)))


def payment_questions(subscription: Subscription, factory: Address, fee: Address) -> list[Question]:
    """Return the questions whose replies `check_payment` judges; none if nothing is paid."""
    if not subscription.payment_amount:
        return []
    token, wallet, verifier = subscription.payment_token, subscription.wallet, subscription.verifier
    questions = [
        call(factory, WalletFactory.is_valid_wallet.encode(wallet)),
        balance_question(token, wallet),
        call(wallet, Wallet.allowance.encode(subscription.owner, token)),
        call(fee, Fee.fee.encode()),
    ]
    if subscription.needs_proof:
        questions += [
            call(verifier, Verifier.is_supported_token.encode(token)),
            call(verifier, Verifier.fee.encode(token)),
        ]
    return questions


def check_payment(subscription: Subscription, replies: Sequence[Any]) -> None:
    """Raise the `Refusal` of a subscription that could not pay for a result now.

    Raise `Refused` and `UnreadableReply` if the contracts of the protocol itself do not answer.
    """
    if not subscription.payment_amount:
        return
    token, wallet = subscription.payment_token, subscription.wallet
    if wallet == ZERO_ADDRESS or not WalletFactory.is_valid_wallet.decode_one(result_bytes(replies[0])):
        raise Refusal("Wallet not valid", wallet=wallet)
    try:
        has = balance(token, replies[1])
    except (Refused, UnreadableReply) as error:
        raise Refusal("Payment token not valid", payment_token=token) from error
    allowed = Wallet.allowance.decode_one(result_bytes(replies[2]))
    amount = subscription.payment_amount
    for reason, found in (("Wallet balance too low", has), ("Wallet allowance too low", allowed)):
        if found < amount:
            raise Refusal(reason, wallet=wallet, payment_token=token, payment_amount=str(amount), found=str(found))
    if subscription.needs_proof:
        part = Fee.fee.decode_one(result_bytes(replies[3]))
        _check_verifier(subscription, part, *replies[4:])


def _check_verifier(subscription: Subscription, part: int, supported: Any, charged: Any) -> None:
    verifier, token = subscription.verifier, subscription.payment_token
    if not _answer(Verifier.is_supported_token, supported, verifier):
        raise Refusal("Verifier does not support token", verifier=verifier, payment_token=token)
    fee = _answer(Verifier.fee, charged, verifier)
    if subscription.payment_amount < 2 * part * subscription.payment_amount // PARTS + fee:
        shown = {"payment_amount": str(subscription.payment_amount), "verifier_fee": str(fee)}
        raise Refusal("Payment does not cover the verifier", verifier=verifier, **shown)


def _is_ether(token: Address) -> bool:
    return token == ZERO_ADDRESS


def _answer(function: Function, reply: Any, verifier: Address) -> Any:
    try:
        return function.decode_one(result_bytes(reply))
    except (Refused, UnreadableReply) as error:
        raise Refusal("Verifier not valid", verifier=verifier) from error
