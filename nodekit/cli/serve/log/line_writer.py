"""Lines that a thread writes to a place that may not take them: a terminal that is paused, a full pipe, a hung disk."""

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

MOST_LINES = 10_000
MOST_BYTES = 4 << 20
"""Number and bytes of the lines that wait at most. Further ones are dropped and counted, until half of it is free."""
BATCH_BYTES = 1 << 16


class Place(Protocol):
    """A place for lines. Its methods are called in one thread, and may take any time."""

    blocked: str
    """The reason, if it takes lines too slowly."""

    @property
    def room(self) -> int:
        """Number of bytes that may be written at once; one line may be longer."""
        ...

    def write(self, data: bytes) -> int:
        """Write some of the bytes, and return their number. Raise `OSError` if the place refuses them."""
        ...

    def reopen(self) -> None:
        """Open a file anew, by its name."""
        ...


class Descriptor:
    """A descriptor as a place, such as that of standard error."""

    room = BATCH_BYTES
    blocked = "was not read"

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: bytes) -> int:
        while True:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:  # another process that shares it has made it non-blocking
                self._is_ready(None)

    def write_if_ready(self, data: bytes) -> None:
        """Write a few bytes, unless that would have to wait."""
        if len(data) <= select.PIPE_BUF and self._is_ready(0):
            os.write(self._descriptor, data)

    def reopen(self) -> None:
        """Do nothing: it has no name."""

    def _is_ready(self, seconds: float | None) -> bool:
        waiting = select.poll()
        waiting.register(self._descriptor, select.POLLOUT)
        return bool(waiting.poll(seconds))


class LineWriter:
    """The lines that wait for a place, and the thread that writes them.

    - `named`: The name of the place in notices.
    - `notice`: Makes a line of a text about lines that were dropped.
    - `report`: Gets a text for other places, once, when this one begins to refuse lines or takes them too slowly.
    - `instead`: Gets the lines that this place does not take. None: they are lost.
    """

    def __init__(
        self,
        place: Place,
        named: str,
        *,
        notice: Callable[[str], bytes],
        report: Callable[[str], None] | None = None,
        instead: Callable[[bytes], None] | None = None,
    ) -> None:
        self._place = place
        self._named = named
        self._notice = notice
        self._report = report
        self._instead = instead
        self._lost = "dropped" if instead is None else "written elsewhere"
        self._changed = threading.Condition()
        self._lines: deque[bytes | None] = deque()
        """Lines that wait; None: the file is opened anew here."""
        self._bytes = 0
        self._dropped = self._refused = 0
        """Number of lines for which there was no room, and that the place refused."""
        self._failure = ""
        self._is_torn = False
        """True if the place has the begin of a line, and refused its end."""
        self._closed = self._ended = False
        self._thread = threading.Thread(target=self._run, name=f"log: {named}", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> None:
        """Have a line written, or drop it. Return at once."""
        with self._changed:
            begins = refused = False
            if self._ended:
                self._put_late(line)
            elif self._dropped or len(self._lines) >= MOST_LINES or self._bytes + len(line) > MOST_BYTES:
                begins, refused = not self._dropped, True
                self._dropped += line.count(b"\n")
            else:
                self._append(line)
        if begins and self._report is not None:
            self._report(f"{self._named} takes no more lines for now; they are {self._lost} and counted")
        if refused and self._instead is not None:
            self._instead(line)

    def reopen(self) -> None:
        """Open the file anew for the lines that follow."""
        with self._changed:
            self._lines.append(None)
            self._changed.notify()

    def close(self) -> None:
        """Let the thread end when it has written the lines that wait."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def wait(self, until: float) -> None:
        """Wait for the end of the thread, at most until a time of the monotonic clock."""
        self._thread.join(max(0.0, until - time.monotonic()))

    def _append(self, line: bytes) -> None:
        self._lines.append(line)
        self._bytes += len(line)
        self._changed.notify()

    def _put_late(self, line: bytes) -> None:
        """Write a line of a process that ends, if the place takes it at once."""
        if isinstance(self._place, Descriptor):
            with suppress(OSError):
                self._place.write_if_ready(line)

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            if not batch:
                self._reopen()
            elif self._write(batch):
                self._recovered()

    def _next(self) -> bytes | None:
        """Wait for lines, and return as many as there is room for; b"": open anew; None: it is the end."""
        with self._changed:
            while not self._lines:
                if self._closed:
                    self._ended = True
                    return None
                self._changed.wait()
            batch: list[bytes] = []
            room = self._place.room
            while self._lines and (line := self._lines[0]) is not None and (not batch or len(line) <= room):
                self._lines.popleft()
                batch.append(line)
                room -= len(line)
                self._bytes -= len(line)
            if not batch:
                self._lines.popleft()
            if self._dropped and self._bytes <= MOST_BYTES / 2 and len(self._lines) <= MOST_LINES / 2:
                count, self._dropped = self._dropped, 0
                self._append(self._notice(f"{_lines(count)} {self._lost}: {self._named} {self._place.blocked}"))
            return b"".join(batch)

    def _reopen(self) -> None:
        """Open a file anew. A failure is reported now: the next line may come in weeks."""
        try:
            self._place.reopen()
        except OSError as error:
            self._fail(error)
        else:
            self._recovered()

    def _fail(self, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or str(error)
        if not self._failure and self._report is not None:
            self._report(f"{self._named} cannot be written: {reason}; the log goes on here")
        self._failure = reason

    def _write(self, lines: bytes) -> bool:
        """Write lines, and return True; count them if the place refuses them."""
        data = b"\n" + lines if self._is_torn else lines
        done = 0
        try:
            while done < len(data):
                done += self._place.write(data[done:])
                self._is_torn = data[done - 1 : done] != b"\n"
        except Exception as error:  # mostly OSError; a thread that ended would lose all lines that follow
            self._refused += min(data[done:].count(b"\n"), lines.count(b"\n"))
            left = data[data.rfind(b"\n", 0, done) + 1 :].removeprefix(b"\n")  # a line that was cut is whole elsewhere
            self._fail(error)
            if self._instead is not None:
                self._instead(left)
            return False
        return True

    def _recovered(self) -> None:
        """Write how many lines were refused before the last ones."""
        count, reason = self._refused, self._failure
        self._refused, self._failure = 0, ""
        if count:
            self._write(self._notice(f"{_lines(count)} {self._lost}: {self._named} could not be written: {reason}"))


def _lines(count: int) -> str:
    return "1 line was" if count == 1 else f"{count:,} lines were"
