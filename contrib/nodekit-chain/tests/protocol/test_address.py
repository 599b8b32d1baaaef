"""Addresses: one text for each, and their checksum."""

import pytest
from eth_utils.address import to_checksum_address
from hypothesis import given
from hypothesis import strategies as some

from nodekit_chain.protocol.address import InvalidAddress, checksum_address, parse_address

LOWER = "0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed"
MIXED = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"


@pytest.mark.parametrize("text", [LOWER, MIXED, "0x" + LOWER[2:].upper()])
def test_an_address_is_its_lower_case(text: str) -> None:
    assert parse_address(text) == LOWER


@pytest.mark.parametrize("text", ["", "0x", LOWER[:-1], LOWER + "0", LOWER[2:], LOWER + "\n", LOWER[:-1] + "g"])
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(InvalidAddress, match="expected 0x and 40"):
        parse_address(text)


def test_a_wrong_checksum_is_refused() -> None:
    with pytest.raises(InvalidAddress, match="wrong checksum"):
        parse_address(MIXED.replace("aA", "AA"))


@given(some.binary(min_size=20, max_size=20))
def test_checksums_agree_with_an_independent_library(data: bytes) -> None:
    address = f"0x{data.hex()}"
    assert checksum_address(address) == to_checksum_address(address)
    assert parse_address(checksum_address(address)) == address
