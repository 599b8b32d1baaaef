"""Blocks, and the window by which forks are noticed."""

import pytest

from nodekit import NodekitError
from nodekit_chain.watching.blocks import WINDOW, Block, BlockWindow

REPLY = {"number": "0x10", "timestamp": "0x64", "hash": "0xaa", "baseFeePerGas": "0x7"}


def block(number: int, fork: str = "") -> Block:
    return Block(number, f"{fork}{number}", 100 + number)


def test_a_block_is_read_from_a_reply() -> None:
    assert Block.of(REPLY) == Block(16, "0xaa", 100, 7)
    assert Block.of(None) is None


@pytest.mark.parametrize(
    "reply", [[], "0x1", {}, REPLY | {"number": None}, REPLY | {"hash": 1}, REPLY | {"timestamp": "x"}]
)
def test_garbage_is_no_block(reply: object) -> None:
    with pytest.raises(NodekitError, match="answered with"):
        Block.of(reply)


def test_a_window_knows_recent_blocks() -> None:
    window = BlockWindow()
    assert (window.newest, window.at_most(10)) == (-1, None)
    for number in range(WINDOW + 50):
        window.add(block(number))
    assert len(window.hashes) == WINDOW
    assert window.newest == WINDOW + 49
    assert window.at_most(WINDOW + 3) == WINDOW + 3
    assert window.at_most(20) is None


def test_a_window_finds_the_last_common_block_and_forgets_those_above() -> None:
    window = BlockWindow()
    for number in range(10):
        window.add(block(number))
    present = {number: block(number, "" if number < 7 else "x").hash for number in range(10)}
    assert window.common(present) == 6
    window.unwind(6)
    assert window.newest == 6
    assert window.common({3: "other"}) == -1
