"""Limits for the harm that a broken component can do to its test: repeated requests end, with a message."""

from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import anyio.lowlevel

MOST_BYTES = 1 << 26
"""Limit for a stream; no test asks for more bytes."""
_PIECE_BYTES = 64
"""Cost of a piece in addition to its bytes: endless empty pieces fill memory, too."""


@contextmanager
def within(seconds: float, what: str) -> Iterator[None]:
    """Raise AssertionError if the block takes longer; `what` names what did not come. Loops in the block await
    `turn`."""
    with anyio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise AssertionError(f"{what}: not within {seconds:g} s")


async def turn() -> None:
    """Give the event loop a turn, so that the time limit can end the loop even if a component answers without
    awaiting."""
    await anyio.lowlevel.checkpoint()


class Pieces:
    """Pieces of a stream as they come, up to the limit of `MOST_BYTES`."""

    def __init__(self) -> None:
        self._came: list[bytes] = []
        self._bytes_left = MOST_BYTES

    async def take(self, piece: bytes) -> None:
        self._came.append(piece)
        self._bytes_left -= len(piece) + _PIECE_BYTES
        assert self._bytes_left >= 0, f"the stream does not end: more than {MOST_BYTES} bytes came"
        await turn()

    @property
    def whole(self) -> bytes:
        return b"".join(self._came)
