"""Blocks, and the window of recent ones by which a fork is noticed. Pure."""

from collections.abc import Mapping
from typing import Any

import msgspec

from nodekit import NodekitError
from nodekit_chain.rpc.questions import result

WINDOW = 256
"""Number of blocks that are remembered. A deeper fork means reading all subscriptions again."""


class Block(msgspec.Struct, frozen=True):
    """The head of a block. `timestamp` is in Unix seconds, `base_fee` in wei per gas."""

    number: int
    hash: str
    timestamp: int
    base_fee: int = 0

    @classmethod
    def of(cls, reply: Any) -> "Block | None":
        """Return the block of a reply to `eth_getBlockByNumber`; None if there is none of that number.

        Raise `NodekitError` for anything else.
        """
        if reply is None:
            return None
        try:
            number, timestamp = int(reply["number"], 16), int(reply["timestamp"], 16)
            hash, base_fee = reply["hash"], int(reply.get("baseFeePerGas") or "0x0", 16)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise NodekitError(f"the RPC endpoint answered with no block: {str(reply)[:100]}") from error
        if not isinstance(hash, str):
            raise NodekitError(f"the RPC endpoint answered with a block without a hash: {str(reply)[:100]}")
        return cls(number, hash, timestamp, base_fee)

    @classmethod
    def newest(cls, reply: Any) -> "Block":
        """Return the block of a reply to the question for the newest one. Raise `NodekitError`."""
        if (block := cls.of(result(reply))) is None:
            raise NodekitError("the RPC endpoint has no block yet")
        return block


class BlockWindow:
    """The hashes of recent blocks that were looked at, by number. Numbers in between may be missing."""

    def __init__(self) -> None:
        self._hashes: dict[int, str] = {}

    @property
    def newest(self) -> int:
        """Number of the newest block; -1 if there is none."""
        return max(self._hashes, default=-1)

    @property
    def hashes(self) -> Mapping[int, str]:
        return self._hashes

    def add(self, block: Block) -> None:
        self._hashes[block.number] = block.hash
        for number in [number for number in self._hashes if number <= block.number - WINDOW]:
            del self._hashes[number]

    def at_most(self, number: int) -> int | None:
        """Return the number of the newest remembered block that is not above `number`."""
        return max((one for one in self._hashes if one <= number), default=None)

    def common(self, present: Mapping[int, str]) -> int:
        """Return the newest block that is in the window and, with the same hash, in `present`; -1 if there is none."""
        return max((number for number, hash in present.items() if self._hashes.get(number) == hash), default=-1)

    def unwind(self, common: int) -> None:
        """Forget the blocks above `common`."""
        for number in [number for number in self._hashes if number > common]:
            del self._hashes[number]
