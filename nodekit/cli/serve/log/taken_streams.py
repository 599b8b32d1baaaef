"""Standard output and error of the node's process, for all that writes to them: libraries, tracebacks, functions.

Nothing waits for their readers. What comes to standard error becomes records of the log.
"""

import io
import threading
from collections.abc import Callable
from typing import Any, TextIO, cast

from nodekit.cli.serve.log.formats import LONGEST_RECORD


class TakenStream(io.RawIOBase):
    """A stream in place of another one. It hands on what is written to it: piece by piece, or in whole lines."""

    def __init__(self, put: Callable[[bytes], None], before: TextIO, *, lines: bool) -> None:
        super().__init__()
        self._put = put
        self._before = before
        self._lines = lines
        self._line = b""
        self._turn = threading.RLock()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._before.isatty()

    def fileno(self) -> int:
        return self._before.fileno()

    def write(self, data: Any, /) -> int:
        text = bytes(data)
        if not self._lines:
            self._put(text)
            return len(text)
        with self._turn:
            *whole, self._line = (self._line + text).split(b"\n")
            if len(self._line) > LONGEST_RECORD:
                whole, self._line = [*whole, self._line], b""
        for line in whole:
            self._put(line)
        return len(text)

    def finish(self) -> None:
        """Hand on a line that was not ended."""
        with self._turn:
            line, self._line = self._line, b""
        if line:
            self._put(line)


def as_text(taken: TakenStream) -> TextIO:
    """Return the stream for text. It has no buffer of its own."""
    return io.TextIOWrapper(cast(Any, taken), "utf-8", "backslashreplace", write_through=True)
