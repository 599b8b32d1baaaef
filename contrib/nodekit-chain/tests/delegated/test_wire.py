"""Delegated subscriptions as JSON: numbers of 256 bits are exact, and a wrong field is named."""

import json
from typing import Any

import pytest
from msgspec import Raw

from nodekit import SubscriptionRequest
from nodekit_chain.delegated.wire import MalformedField, read
from nodekit_chain.protocol.subscription import containers_hash

MOST = 2**256 - 1
OWNER = "0x" + "Aa" * 20
SIGNATURE = {"nonce": 7, "expiry": 2**32 - 1, "v": 27, "r": MOST, "s": 1}
SUBSCRIPTION = {
    "owner": OWNER.lower(),
    "active_at": 1,
    "period": 60,
    "frequency": 3,
    "redundancy": 2,
    "containers": "0x" + containers_hash(["a", "b"]).hex(),
    "lazy": True,
    "verifier": "0x" + "00" * 20,
    "payment_amount": MOST,
    "payment_token": "0x" + "01" * 20,
    "wallet": "0x" + "02" * 20,
}


def request(signature: Any = None, subscription: Any = None, data: str | None = '{"n": 1}') -> SubscriptionRequest:
    one, other = ({**SIGNATURE, **(signature or {})}, {**SUBSCRIPTION, **(subscription or {})})
    return SubscriptionRequest(
        signature=Raw(json.dumps(one).encode()),
        subscription=Raw(json.dumps(other).encode()),
        data=None if data is None else Raw(data.encode()),
    )


def test_every_field_is_read_and_numbers_of_256_bits_are_exact() -> None:
    found = read(request())
    assert (found.signature.v, found.signature.r, found.signature.s) == (27, MOST, 1)
    assert (found.request.nonce, found.request.expiry) == (7, 2**32 - 1)
    assert found.request.subscription.row == (
        OWNER.lower(),
        *(1, 60, 3, 2, containers_hash(["a", "b"]), True),
        *("0x" + "00" * 20, MOST, "0x" + "01" * 20, "0x" + "02" * 20),
    )
    assert bytes(found.data) == b'{"n": 1}'


@pytest.mark.parametrize("text", [hex(MOST), str(MOST)])
def test_large_numbers_may_be_texts(text: str) -> None:
    found = read(request({"r": text}, {"payment_amount": text}))
    assert (found.signature.r, found.request.subscription.payment_amount) == (MOST, MOST)


def test_fields_that_nobody_knows_are_ignored() -> None:
    assert read(request({"more": 1}, {"more": []})).request.nonce == 7


@pytest.mark.parametrize(
    ("signature", "subscription", "field"),
    [
        ({"nonce": -1}, {}, "signature.nonce"),
        ({"expiry": 2**32}, {}, "signature.expiry"),
        ({"v": 26}, {}, "signature.v"),
        ({"r": MOST + 1}, {}, "signature.r"),
        ({"r": -1}, {}, "signature.r"),
        ({"r": 1.5}, {}, "signature.r"),
        ({"s": "0xzz"}, {}, "signature.s"),
        ({"s": "1" * 5000}, {}, "signature.s"),
        ({}, {"owner": "0x12"}, "subscription.owner"),
        ({}, {"owner": 7}, "subscription.owner"),
        ({}, {"wallet": OWNER[:-2] + "AA"}, "subscription.wallet"),
        ({}, {"redundancy": 2**16}, "subscription.redundancy"),
        ({}, {"containers": "0x12"}, "subscription.containers"),
        ({}, {"containers": "00" * 33}, "subscription.containers"),
        ({}, {"containers": "0x" + "zz" * 32}, "subscription.containers"),
        ({}, {"lazy": 1}, "subscription.lazy"),
        ({}, {"payment_amount": None}, "subscription.payment_amount"),
    ],
)
def test_a_wrong_field_is_named(signature: Any, subscription: Any, field: str) -> None:
    with pytest.raises(MalformedField) as refused:
        read(request(signature, subscription))
    assert refused.value.reason == "Malformed subscription"
    assert refused.value.params["field"] == field


@pytest.mark.parametrize("data", [None, "[]", "1", '"{"', "null"])
def test_data_is_an_object(data: str | None) -> None:
    with pytest.raises(MalformedField, match="Malformed") as refused:
        read(request(data=data))
    assert refused.value.params["field"] == "data"


@pytest.mark.parametrize("raw", [b"7", b"[]", b"{}", b"null", b'"x"'])
def test_what_is_no_subscription_is_refused(raw: bytes) -> None:
    with pytest.raises(MalformedField):
        read(SubscriptionRequest(signature=Raw(raw), subscription=Raw(raw), data=Raw(b"{}")))
