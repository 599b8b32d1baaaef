"""Requests by which the owner of a subscription lets a node create it: their digest and signature (EIP-712)."""

import msgspec
from coincurve import PublicKey
from eth_abi.abi import encode
from msgspec.structs import astuple

from nodekit import NodekitError
from nodekit_chain.protocol.address import Address
from nodekit_chain.protocol.keccak import keccak256
from nodekit_chain.protocol.subscription import SUBSCRIPTION_TYPE, Subscription

_SUBSCRIPTION = (
    "Subscription(address owner,uint32 activeAt,uint32 period,uint32 frequency,uint16 redundancy,bytes32 containerId,"
    "bool lazy,address verifier,uint256 paymentAmount,address paymentToken,address wallet)"
)
_DOMAIN_HASH = keccak256(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
_SUBSCRIPTION_HASH = keccak256(_SUBSCRIPTION.encode())
_REQUEST_HASH = keccak256(f"DelegateSubscription(uint32 nonce,uint32 expiry,Subscription sub){_SUBSCRIPTION}".encode())
_NAME, _VERSION = keccak256(b"InfernetCoordinator"), keccak256(b"1")

ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
"""Order of the curve secp256k1: what `r` and `s` are below."""


class UnreadableSignature(NodekitError):
    """Numbers that are not a signature of anybody."""


class Domain(msgspec.Struct, frozen=True):
    """The coordinator that a signature is for, and its chain. On another one it is worth nothing."""

    chain_id: int
    coordinator: Address

    @property
    def separator(self) -> bytes:
        types = ["bytes32", "bytes32", "bytes32", "uint256", "address"]
        return keccak256(encode(types, [_DOMAIN_HASH, _NAME, _VERSION, self.chain_id, self.coordinator]))


class Signature(msgspec.Struct, frozen=True):
    """A signature as the coordinator takes it: `v` is 27 or 28."""

    v: int
    r: int
    s: int

    @property
    def row(self) -> tuple[int, bytes, bytes]:
        """The arguments `uint8 v, bytes32 r, bytes32 s` of the coordinator."""
        return self.v, self.r.to_bytes(32), self.s.to_bytes(32)


class DelegatedRequest(msgspec.Struct, frozen=True):
    """A subscription to be created by whoever delivers its first result.

    - `nonce`: Number of the request, unique for its owner; their order is free.
    - `expiry`: Second, since 1970, from which it is not created any more.
    """

    nonce: int
    expiry: int
    subscription: Subscription

    def digest(self, domain: Domain) -> bytes:
        """Return the 32 bytes that are signed."""
        subscription = keccak256(
            encode(["bytes32", SUBSCRIPTION_TYPE], [_SUBSCRIPTION_HASH, astuple(self.subscription)])
        )
        types = ["bytes32", "uint32", "uint32", "bytes32"]
        request = keccak256(encode(types, [_REQUEST_HASH, self.nonce, self.expiry, subscription]))
        return keccak256(b"\x19\x01" + domain.separator + request)

    def signer(self, signature: Signature, domain: Domain) -> Address:
        """Return the account that has signed it. Raise `UnreadableSignature`.

        It must be the account that the owner's `getSigner` names. Any change of the request, of the chain or of the
        coordinator gives another account.
        """
        return recovered(self.digest(domain), signature)


def recovered(digest: bytes, signature: Signature) -> Address:
    """Return the account that has signed a digest. Raise `UnreadableSignature`."""
    if signature.v not in (27, 28):
        raise UnreadableSignature(f"v is {signature.v}; expected 27 or 28")
    for name, number in (("r", signature.r), ("s", signature.s)):
        if not 0 < number < ORDER:
            raise UnreadableSignature(f"{name} is outside the range of a signature")
    packed = signature.r.to_bytes(32) + signature.s.to_bytes(32) + bytes([signature.v - 27])
    try:
        public = PublicKey.from_signature_and_message(packed, digest, hasher=None)
    except ValueError as error:  # no point of the curve has this r
        raise UnreadableSignature("r and s are no signature of this request") from error
    return account_address(public)


def account_address(public: PublicKey) -> Address:
    """Return the address of the account with a public key."""
    return "0x" + keccak256(public.format(compressed=False)[1:])[12:].hex()
