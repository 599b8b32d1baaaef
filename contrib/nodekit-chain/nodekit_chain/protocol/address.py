"""Addresses: 20 bytes, written as `0x` and 40 lower-case hexadecimal digits."""

import re
from typing import TypeAlias

from nodekit import NodekitError
from nodekit_chain.protocol.keccak import keccak256

Address: TypeAlias = str
"""Text of an address in lower case, so that equal addresses are equal texts."""

ZERO_ADDRESS: Address = "0x" + "00" * 20
"""In a subscription: no verifier, no wallet, or ether instead of a token."""

_FORM = re.compile(r"0x[0-9a-fA-F]{40}")


class InvalidAddress(NodekitError):
    """A text is not an address."""


def parse_address(text: str) -> Address:
    """Return the address in lower case. Raise `InvalidAddress` for another form, or a wrong checksum (EIP-55).

    Text in one case has no checksum.
    """
    if not _FORM.fullmatch(text):
        raise InvalidAddress(f"{text[:80]!r} is not an address; expected 0x and 40 hexadecimal digits")
    digits = text[2:]
    if digits not in (digits.lower(), digits.upper()) and text != checksum_address(text):
        raise InvalidAddress(f"{text!r} has a wrong checksum; copy the address again, or write it in lower case")
    return text.lower()


def checksum_address(address: Address) -> str:
    """Return the address in the mixed case of EIP-55, as wallets and explorers show it."""
    digits = address[2:].lower()
    hashed = keccak256(digits.encode()).hex()
    return "0x" + "".join(
        digit.upper() if int(nibble, 16) >= 8 else digit for digit, nibble in zip(digits, hashed, strict=False)
    )


def address_bytes(address: Address) -> bytes:
    """Return the 20 bytes."""
    return bytes.fromhex(address[2:])
