"""The output of a process: read piece by piece on the event loop, and split into lines."""

import asyncio
import logging
import os
import time
from collections import deque
from typing import IO

from nodekit_remote import MAX_LINE_BYTES, ContainerLog, printable_line

KEPT_LINES = 20
FEW_BYTES = 512
"""Size of a read whose lines are logged. Logging a line takes as long as reading thousands of bytes."""
PIPE_BYTES = 1 << 16
"""Size of a read whose lines are only counted: as much as a pipe holds."""
LINES_AT_ONCE = 512
"""Number of lines that are logged before other work has its turn."""
END_BYTES = 1 << 20
"""Most that is read after the end of the process. Something else may still hold the pipe, and write to it."""
PAUSES = 4
"""Reading what is only counted pauses for this many times as long as it took: it has a fifth of the loop at most."""


class Output:
    """The lines of one life of a process. They go to the container's log, and the last ones are remembered."""

    def __init__(self, log: ContainerLog) -> None:
        self._log = log
        self._last: deque[bytes] = deque(maxlen=KEPT_LINES)
        self._line = b""
        self._cut = False
        """True while the rest of a line that was too long is dropped."""

    @property
    def last_lines(self) -> tuple[str, ...]:
        """The last lines, made fit to print."""
        return tuple(map(printable_line, self._last))

    def has_room(self) -> bool:
        """Return True if the next bytes are for the log, False if they are only counted, or cut off a long line."""
        return not self._cut and self._log.has_room()

    @property
    def seconds_to_report(self) -> float | None:
        """Time after which to call `report`; None: nothing was dropped."""
        return self._log.seconds_to_report

    def report(self) -> None:
        """Log how much was dropped."""
        self._log.report()

    def feed(self, piece: bytes) -> None:
        """Take the next piece of output, which may end anywhere in a line. A line need not end to be logged."""
        if self._cut:
            _, newline, piece = piece.partition(b"\n")
            self._cut = not newline
        whole, newline, rest = piece.rpartition(b"\n")
        if newline:
            self._add(whole, whole.count(b"\n") + 1)
        self._line += rest
        if len(self._line) > MAX_LINE_BYTES:
            self._add(b"", 1)
            self._cut = True

    def end(self) -> None:
        """Finish the output. Its last line need not end with a newline."""
        if self._line:
            self._add(b"", 1)
        self._log.report()

    def _add(self, whole: bytes, count: int) -> None:
        """Add `count` lines, without the last newline. The first one may have begun with an earlier piece."""
        logged = self._log.has_room() and count <= LINES_AT_ONCE
        lines = whole.split(b"\n") if logged else whole.rsplit(b"\n", KEPT_LINES)[-KEPT_LINES:]
        if len(lines) == count:
            lines[0] = self._line + lines[0]
        self._last.extend(line[: MAX_LINE_BYTES + 1] for line in lines)
        if logged:
            self._log.add(map(printable_line, lines), level=logging.INFO)
        else:
            self._log.drop(count, len(self._line) + len(whole) + 1, level=logging.INFO)
        self._line = b""


class PipeReader:
    """A reader of a pipe, by callbacks of the event loop.

    It reads on whatever is logged, because a program blocks on a full pipe. Each callback takes a short time.
    """

    def __init__(self, pipe: IO[bytes], output: Output) -> None:
        os.set_blocking(pipe.fileno(), False)
        self._pipe = pipe
        self._output = output
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._reminder: asyncio.TimerHandle | None = None
        self._watch()

    def finish(self) -> None:
        """Read what is left in the pipe of a process that has ended."""
        left = END_BYTES
        while left > 0 and (size := self._read()):
            left -= size
        self._output.end()
        self.close()

    def close(self) -> None:
        """Stop reading, and close the pipe."""
        for handle in (self._pause, self._reminder):
            if handle is not None:
                handle.cancel()
        if not self._pipe.closed:
            self._loop.remove_reader(self._pipe.fileno())
            self._pipe.close()

    def _watch(self) -> None:
        self._pause = None
        self._loop.add_reader(self._pipe.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        began = time.thread_time()  # other programs' use of the processor is no reason for a longer pause
        if self._read() > FEW_BYTES:
            self._loop.remove_reader(self._pipe.fileno())
            self._pause = self._loop.call_later(PAUSES * (time.thread_time() - began), self._watch)
        if self._reminder is None and (seconds := self._output.seconds_to_report) is not None:
            self._reminder = self._loop.call_later(seconds, self._report)

    def _report(self) -> None:
        self._reminder = None
        self._output.report()

    def _read(self) -> int:
        """Read a piece, and return its size; 0: there was nothing to read, or it was the end."""
        if self._pipe.closed:
            return 0
        try:
            piece = os.read(self._pipe.fileno(), FEW_BYTES if self._output.has_room() else PIPE_BYTES)
        except BlockingIOError:
            return 0
        if piece:
            self._output.feed(piece)
        else:
            self.close()
        return len(piece)
