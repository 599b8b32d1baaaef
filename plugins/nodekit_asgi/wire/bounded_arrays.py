"""Arrays with a limit on their length, which is noticed before the items are made: a body may have millions of them."""

from functools import cache
from typing import Any, Generic, TypeVar, cast

import msgspec
from msgspec import UNSET, UnsetType

T = TypeVar("T")

LONGEST = 10_000
"""Largest limit that can be set on the length of an array."""


class TooLong(Exception):
    """An array has more items than it may have."""


class ArrayDecoder(Generic[T]):
    """Decoder of a JSON array of at most `most` items. It raises `TooLong`, or an error of msgspec."""

    def __init__(self, kind: type[T], most: int) -> None:
        self._most = most
        self._list: msgspec.json.Decoder[list[T]] = msgspec.json.Decoder(list[kind])  # type: ignore[valid-type]
        fields = [(f"item_{number}", cast(Any, kind | UnsetType), UNSET) for number in range(most)]
        struct = msgspec.defstruct(f"AtMost{most}", fields, array_like=True, forbid_unknown_fields=True)
        self._struct: msgspec.json.Decoder[Any] = msgspec.json.Decoder(struct)
        """Unlike that of a list, it stops at the first item too many."""

    def decode(self, body: bytes | bytearray | msgspec.Raw) -> list[T]:
        text = bytes(body) if isinstance(body, msgspec.Raw) else body
        if text.count(b",") < self._most:
            return self._list.decode(text)
        try:
            items = self._struct.decode(text)
        except msgspec.ValidationError as error:
            if "of at most length" in str(error):
                raise TooLong from error
            raise
        return [item for item in msgspec.structs.astuple(items) if item is not UNSET]


array_decoder = cache(ArrayDecoder)
