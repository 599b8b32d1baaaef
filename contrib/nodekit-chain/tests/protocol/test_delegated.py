"""Delegated requests: digests and signers agree with an independent library, and with the coordinator."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from independent import Account, encode_typed_data
from local_chain import CHAIN_ID, CallFailed, Contracts
from msgspec.structs import replace

from nodekit_chain.protocol.delegated import ORDER, DelegatedRequest, Domain, Signature, UnreadableSignature
from nodekit_chain.protocol.reverts import revert_of
from nodekit_chain.protocol.subscription import Subscription, containers_hash

KEY = "0x" + "42" * 32
SIGNER = Account.from_key(KEY).address.lower()
DOMAIN = Domain(CHAIN_ID, "0x" + "c0" * 20)
SUBSCRIPTION = Subscription(
    "0x" + "ab" * 20, 1_700_000_000, 60, 3, 2, containers_hash(["a", "b"]), True, "0x" + "01" * 20, 2**256 - 1,
    "0x" + "02" * 20, "0x" + "03" * 20
)  # fmt: skip
REQUEST = DelegatedRequest(7, 1_800_000_000, SUBSCRIPTION)
FIELDS = (
    ("address", "owner"), ("uint32", "activeAt"), ("uint32", "period"), ("uint32", "frequency"),
    ("uint16", "redundancy"), ("bytes32", "containerId"), ("bool", "lazy"), ("address", "verifier"),
    ("uint256", "paymentAmount"), ("address", "paymentToken"), ("address", "wallet"),
)  # fmt: skip


def signed(request: DelegatedRequest, domain: Domain) -> Signature:
    """Sign as the owners of subscriptions do, with an independent library."""
    types = {
        "Subscription": [{"type": kind, "name": name} for kind, name in FIELDS],
        "DelegateSubscription": [
            {"type": "uint32", "name": "nonce"},
            {"type": "uint32", "name": "expiry"},
            {"type": "Subscription", "name": "sub"},
        ],
    }
    sub = {name: value for (_, name), value in zip(FIELDS, request.subscription.row, strict=True)}
    message = {"nonce": request.nonce, "expiry": request.expiry, "sub": sub}
    about = {
        "name": "InfernetCoordinator", "version": "1", "chainId": domain.chain_id,
        "verifyingContract": domain.coordinator,
    }  # fmt: skip
    made = Account.sign_message(encode_typed_data(about, types, message), KEY)
    return Signature(made.v, made.r, made.s)


def test_the_digest_does_not_change() -> None:
    assert REQUEST.digest(DOMAIN).hex() == "38a99f6fd0b9b1eb46c8b129beb8b3f87187f3640a93775e735b89b9d3f3829e"


def test_the_signer_is_found() -> None:
    assert REQUEST.signer(signed(REQUEST, DOMAIN), DOMAIN) == SIGNER


@settings(deadline=None, max_examples=20)
@given(
    some.integers(0, 2**32 - 1),
    some.integers(0, 2**32 - 1),
    some.integers(0, 2**256 - 1),
    some.binary(min_size=32, max_size=32),
)
def test_any_request_is_signed_as_others_sign_it(nonce: int, expiry: int, amount: int, containers: bytes) -> None:
    request = DelegatedRequest(nonce, expiry, replace(SUBSCRIPTION, payment_amount=amount, containers=containers))
    assert request.signer(signed(request, DOMAIN), DOMAIN) == SIGNER


@pytest.mark.parametrize(
    ("request_", "domain"),
    [
        (replace(REQUEST, nonce=8), DOMAIN),
        (replace(REQUEST, subscription=replace(SUBSCRIPTION, payment_amount=1)), DOMAIN),
        (REQUEST, replace(DOMAIN, chain_id=1)),
        (REQUEST, replace(DOMAIN, coordinator="0x" + "c1" * 20)),
    ],
)
def test_a_signature_is_for_one_request_on_one_chain(request_: DelegatedRequest, domain: Domain) -> None:
    assert request_.signer(signed(REQUEST, DOMAIN), domain) != SIGNER


@pytest.mark.parametrize(
    "change", [{"v": 29}, {"v": 0}, {"r": 0}, {"s": 0}, {"r": ORDER}, {"s": 2**256}, {"s": -1}, {"r": 5}]
)
def test_what_is_no_signature_is_refused(change: dict[str, int]) -> None:
    signature = replace(signed(REQUEST, DOMAIN), **change)
    with pytest.raises(UnreadableSignature):
        REQUEST.signer(signature, DOMAIN)


def test_the_coordinator_takes_what_we_take(contracts: Contracts) -> None:
    consumer = contracts.consumer()
    consumer.send("setSigner", SIGNER)
    domain = Domain(CHAIN_ID, contracts.coordinator.address)
    request = DelegatedRequest(1, contracts.chain.timestamp + 100, replace(SUBSCRIPTION, owner=consumer.address))
    signature = signed(request, domain)
    assert request.signer(signature, domain) == SIGNER

    def create(asked: DelegatedRequest) -> None:
        arguments = (asked.nonce, asked.expiry, asked.subscription.row, *signature.row)
        data = contracts.coordinator.data("createSubscriptionDelegatee", *arguments)
        contracts.chain.rpc("eth_call", {"to": contracts.coordinator.address, "data": "0x" + data.hex()}, "latest")
        contracts.chain.send(data, contracts.coordinator.address)

    with pytest.raises(CallFailed) as caught:
        create(replace(request, nonce=2))
    assert revert_of(caught.value.data).name == "SignerMismatch"
    create(request)
    assert contracts.coordinator.call("maxSubscriberNonce", consumer.address) == 1
