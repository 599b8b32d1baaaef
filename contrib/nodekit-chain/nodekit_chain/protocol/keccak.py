"""Keccak-256, the hash of Ethereum: SHA-3 with the padding that it had before it became a standard."""

from Crypto.Hash import keccak


def keccak256(data: bytes) -> bytes:
    """Return the 32 bytes of the hash."""
    return keccak.new(data=data, digest_bits=256).digest()
