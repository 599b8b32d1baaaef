"""RLP, the encoding of transactions: bytes, numbers and lists of them. Pure."""

from collections.abc import Sequence
from typing import TypeAlias

Item: TypeAlias = "bytes | int | Sequence[Item]"


def encode_rlp(item: Item) -> bytes:
    """Return the encoding. Numbers are not negative, and have no leading zeros; 0 is no bytes at all."""
    if isinstance(item, int):
        return encode_rlp(item.to_bytes((item.bit_length() + 7) // 8))
    if isinstance(item, bytes):
        return item if len(item) == 1 and item[0] < 0x80 else _header(0x80, len(item)) + item
    body = b"".join(map(encode_rlp, item))
    return _header(0xC0, len(body)) + body


def _header(kind: int, length: int) -> bytes:
    if length < 56:
        return bytes([kind + length])
    digits = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes([kind + 55 + len(digits)]) + digits
