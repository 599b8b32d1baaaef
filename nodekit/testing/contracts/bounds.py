"""Bounds of what a broken part can do to its test: what is asked for again and again ends, with a message."""

from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import anyio.lowlevel

MOST_BYTES = 1 << 26
"""More than any test asks for."""
_PIECE_BYTES = 64
"""Cost of a piece beside its bytes: empty ones without end fill memory, too."""


@contextmanager
def within(seconds: float, what: str) -> Iterator[None]:
    """Fail, saying what did not come, if the block takes longer. A loop inside of it awaits `turn`."""
    with anyio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise AssertionError(f"{what}: not within {seconds:g} s")


async def turn() -> None:
    """Let the event loop go round, and with it the time limit: a part that answers without awaiting does not."""
    await anyio.lowlevel.checkpoint()


class Pieces:
    """Pieces of a stream as they come: no more of them than any test asks for."""

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
