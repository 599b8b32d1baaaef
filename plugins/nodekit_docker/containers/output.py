"""What a program prints: two streams, which the engine interleaves on one connection."""

from collections.abc import Iterator

import msgspec

HEAD_BYTES = 8
STDOUT, STDERR = 1, 2
KEPT_BYTES = 64 * 1024
"""Of standard error, from its end."""


class Frames:
    """Takes the engine's stream apart: a head that says which stream and how many bytes, and the bytes."""

    def __init__(self) -> None:
        self._head = b""
        self._stream = 0
        self._left = 0

    def read(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """What of the streams is in the next bytes, in order. A frame may be cut anywhere, and is not waited for."""
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
    """What a program has printed: all of standard output up to a limit, and the end of standard error."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._frames = Frames()
        self._pieces: list[bytes] = []
        self._size = 0
        self._errors = b""

    @property
    def too_large(self) -> bool:
        """Whether standard output is past its limit; what there is of it is then incomplete."""
        return self._size > self._max_bytes

    def add(self, data: bytes) -> None:
        """The next bytes of the engine's stream."""
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
    """A program that has ended, and what it has printed."""

    exit_code: int
    output: bytes
    errors: bytes
    """The end of its standard error."""
