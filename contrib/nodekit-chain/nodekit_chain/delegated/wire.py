"""Delegated subscriptions as JSON on the wire. Fields that are not known are ignored."""

from typing import Annotated, TypeAlias, TypeVar

import msgspec

from nodekit import Refusal, SubscriptionRequest
from nodekit_chain.protocol.address import Address, InvalidAddress, parse_address
from nodekit_chain.protocol.delegated import DelegatedRequest, Signature
from nodekit_chain.protocol.subscription import Subscription

U16: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**16 - 1)]
U32: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
U256: TypeAlias = int | str
"""A number of up to 256 bits, as JSON has it, or as a text: `0x` and hexadecimal digits, or decimal digits."""

LONGEST_NUMBER = 78
"""Digits of the largest number of 256 bits. Longer texts are not even converted."""


class WireSignature(msgspec.Struct, frozen=True):
    """The field `signature`."""

    nonce: U32
    expiry: U32
    v: Annotated[int, msgspec.Meta(ge=27, le=28)]
    r: U256
    s: U256


class WireSubscription(msgspec.Struct, frozen=True):
    """The field `subscription`. `containers` is the hash of the pipeline, with 0x."""

    owner: str
    active_at: U32
    period: U32
    frequency: U32
    redundancy: U16
    containers: str
    lazy: bool
    verifier: str
    payment_amount: U256
    payment_token: str
    wallet: str


class Delegated(msgspec.Struct, frozen=True):
    """A delegated subscription that can be read. Nothing of it is checked yet.

    - `data`: JSON of the input of the first container.
    """

    request: DelegatedRequest
    signature: Signature
    data: msgspec.Raw


class MalformedField(Refusal):
    """A field of the request has a wrong form."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__("Malformed subscription", field=field, problem=problem)


def read(request: SubscriptionRequest) -> Delegated:
    """Read a delegated subscription. Raise the `MalformedField` that names the first wrong field."""
    signature = _decoded(request.signature, WireSignature, "signature")
    subscription = _decoded(request.subscription, WireSubscription, "subscription")
    if request.data is None or not bytes(memoryview(request.data)[:1]) == b"{":
        raise MalformedField("data", "expected an object")
    return Delegated(
        DelegatedRequest(signature.nonce, signature.expiry, _subscription(subscription)),
        Signature(signature.v, _number(signature.r, "signature.r"), _number(signature.s, "signature.s")),
        request.data,
    )


def _subscription(wire: WireSubscription) -> Subscription:
    return Subscription(
        owner=_address(wire.owner, "owner"),
        active_at=wire.active_at,
        period=wire.period,
        frequency=wire.frequency,
        redundancy=wire.redundancy,
        containers=_hash(wire.containers),
        lazy=wire.lazy,
        verifier=_address(wire.verifier, "verifier"),
        payment_amount=_number(wire.payment_amount, "subscription.payment_amount"),
        payment_token=_address(wire.payment_token, "payment_token"),
        wallet=_address(wire.wallet, "wallet"),
    )


T = TypeVar("T", WireSignature, WireSubscription)


def _decoded(raw: msgspec.Raw, kind: type[T], field: str) -> T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$")
        raise MalformedField(field + place.rstrip("`"), problem) from error


def _address(text: str, field: str) -> Address:
    try:
        return parse_address(text)
    except InvalidAddress as error:
        raise MalformedField(f"subscription.{field}", str(error)) from error


def _hash(text: str) -> bytes:
    try:
        found = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        found = b""
    if len(found) != 32 or not text.startswith("0x"):
        raise MalformedField("subscription.containers", "expected the hash of the containers: 0x and 64 digits")
    return found


def _number(value: int | str, field: str) -> int:
    """Return a number of 256 bits."""
    if isinstance(value, str):
        try:
            value = int(value, 16 if value.startswith("0x") else 10) if len(value) <= LONGEST_NUMBER else -1
        except ValueError:
            value = -1
    if not 0 <= value < 2**256:
        raise MalformedField(field, "expected a number of at most 256 bits")
    return value
