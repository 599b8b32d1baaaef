"""RLP agrees with an independent library."""

import pytest
import rlp
from hypothesis import given
from hypothesis import strategies as some

from nodekit_chain.protocol.rlp import Item, encode_rlp, items_of

leaves = some.binary(max_size=100) | some.integers(0, 2**256)
items = some.recursive(leaves, lambda inner: some.lists(inner, max_size=8), max_leaves=30)


@given(items)
def test_any_item_is_encoded_as_others_do(item: Item) -> None:
    assert encode_rlp(item) == rlp.encode(item)


@pytest.mark.parametrize("length", [0, 1, 55, 56, 255, 256, 65_535, 65_536, 1 << 17])
def test_lengths_of_every_size_are_encoded(length: int) -> None:
    data = b"\x80" * length
    assert encode_rlp(data) == rlp.encode(data)
    assert encode_rlp([data, b"\x7f"]) == rlp.encode([data, b"\x7f"])


@given(some.lists(some.binary(max_size=300)))
def test_the_items_of_a_list_are_found_again(given: list[bytes]) -> None:
    assert items_of(rlp.encode(given)) == given
    assert items_of(rlp.encode([given, b"after"]))[1] == b"after"


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(OverflowError):
        encode_rlp(-1)
