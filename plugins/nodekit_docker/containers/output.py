"""A program's output: two streams that the engine interleaves on one connection."""

from collections.abc import Iterator

import msgspec

HEAD_BYTES = 8
STDOUT, STDERR = 1, 2
KEPT_BYTES = 64 * 1024
"""Number of bytes kept of the end of standard error."""


class Frames:
    """A parser of the engine's stream. Each frame has a head, which gives stream and size, and then the bytes."""

    def __init__(self) -> None:
        self._head = b""
        self._stream = 0
        self._left = 0

    def read(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield stream numbers and pieces out of the next bytes, in order.

        A frame may be cut anywhere; its pieces are yielded before it is complete.
        """
        at = 0
        while at < len(data):
            if self._left:
                piece = data[at : at + self._left]
                self._left -= len(piece)
                at += len(piece)
                yield self._stream, piece
                continue
            missing = HEAD_BYTES - len(self._head)
            self._head += data[at : at + missing]
            at += missing
            if len(self._head) == HEAD_BYTES:
                self._stream, self._left = self._head[0], int.from_bytes(self._head[4:], "big")
                self._head = b""


class Output:
    """The output of a program: standard output up to a limit, and the end of standard error."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._frames = Frames()
        self._pieces: list[bytes] = []
        self._size = 0
        self._errors = b""

    @property
    def too_large(self) -> bool:
        """True once standard output is past its limit; the kept output is then incomplete."""
        return self._size > self._max_bytes

    def add(self, data: bytes) -> None:
        """Add the next bytes of the engine's stream."""
        for stream, piece in self._frames.read(data):
            if stream == STDERR:
                self._errors = (self._errors + piece)[-KEPT_BYTES:]
            elif stream == STDOUT:
                self._size += len(piece)
                if not self.too_large:
                    self._pieces.append(piece)

    def printed(self, exit_code: int) -> "Printed":
        return Printed(exit_code, b"".join(self._pieces), self._errors)


class Printed(msgspec.Struct, frozen=True):
    """The exit code and the output of a program that has ended.

    - `errors`: The end of its standard error.
    """

    exit_code: int
    output: bytes
    errors: bytes
