"""The private key of the account. No repr, log line, error, copy or pickle of it has its bytes."""

import re
from typing import NoReturn

import msgspec
from coincurve import PrivateKey

from nodekit import NodekitError
from nodekit_chain.protocol.address import Address
from nodekit_chain.protocol.delegated import account_address

_FORM = re.compile(r"(?:0x)?([0-9a-fA-F]{64})")


class InvalidKey(NodekitError):
    """A text is no private key, or a keystore file cannot be opened. The message shows nothing of either."""


class RecoverableSignature(msgspec.Struct, frozen=True):
    """A signature from which its account can be found.

    - `parity`: 0 or 1: which of two points belongs to `r`.
    """

    parity: int
    r: int
    s: int


class AccountKey:
    """A private key, which signs."""

    __slots__ = ("_key", "address")

    def __init__(self, secret: bytes) -> None:
        """Take the 32 bytes of a key. Raise `InvalidKey`."""
        try:
            self._key = PrivateKey(secret)
            public = self._key.public_key
        except (ValueError, TypeError):
            raise InvalidKey("a private key has 32 bytes, which are a number below the order of secp256k1") from None
        self.address: Address = account_address(public)

    @classmethod
    def parse(cls, text: str) -> "AccountKey":
        """Return the key of 64 hexadecimal digits, with or without 0x. Raise `InvalidKey`."""
        if not (found := _FORM.fullmatch(text.strip())):
            raise InvalidKey("this is no private key; expected 64 hexadecimal digits, with or without 0x")
        return cls(bytes.fromhex(found[1]))

    def sign(self, digest: bytes) -> RecoverableSignature:
        """Sign 32 bytes. The same digest gets the same signature, with the lower of its two possible `s`."""
        packed = self._key.sign_recoverable(digest, hasher=None)  # pyright: ignore[reportUnknownMemberType]
        return RecoverableSignature(packed[64], int.from_bytes(packed[:32]), int.from_bytes(packed[32:64]))

    def __repr__(self) -> str:
        return f"AccountKey({self.address})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key is not copied or pickled")
