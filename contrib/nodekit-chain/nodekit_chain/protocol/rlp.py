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


def items_of(encoded: bytes) -> list[bytes]:
    """Return the items of a list, each as its bytes; of a list among them, the encoded ones. Trust the encoding."""
    place, end = _content(encoded, 0)
    found: list[bytes] = []
    while place < end:
        start, stop = _content(encoded, place)
        found.append(encoded[start:stop])
        place = stop
    return found


def _content(encoded: bytes, place: int) -> tuple[int, int]:
    """Return where the content of the item at a place begins and ends."""
    first = encoded[place]
    if first < 0x80:
        return place, place + 1
    length = first - (0xC0 if first >= 0xC0 else 0x80)
    start = place + 1
    if length >= 56:
        size = length - 55
        length, start = int.from_bytes(encoded[start : start + size]), start + size
    return start, start + length
