"""The output of started containers: lines made fit to print, and no more of them in the log than their limits allow."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence

from nodekit import counted, printable
from nodekit_remote._started import StartedContainer

MAX_LINE_BYTES = 4096
"""Size after which the rest of a line is dropped."""
WINDOW_SECONDS = 10.0
"""Time over which the limits of a container's log are averaged: it may print this many seconds' worth at once."""
LINES_IN_ERROR = 3
CHARACTERS_IN_ERROR = 500


class ContainerLog:
    """The log ``nodekit.container.<id>`` of one container, through all of its lives.

    It takes lines until the limits of a window of time are used up. The rest of the window is dropped and counted. The
    first dropped line is announced at once, and the count is logged when the window is over.
    """

    def __init__(self, container: StartedContainer, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._logger = logging.getLogger(f"nodekit.container.{container.id}")
        self._most_lines = container.log_lines_per_second * WINDOW_SECONDS
        self._most_bytes = container.log_bytes_per_second * WINDOW_SECONDS
        self._monotonic = monotonic
        self._ends_at = -math.inf
        self._lines = self._bytes = 0
        """Number of lines, and of their bytes, that were logged in this window."""
        self._dropped_lines = self._dropped_bytes = 0

    def has_room(self) -> bool:
        """Return True if the next line is logged, unless it is longer than what is left of the window.

        A window that is over is reported, and a new one begins.
        """
        if self._monotonic() >= self._ends_at:
            self.report()
            self._ends_at = self._monotonic() + WINDOW_SECONDS
            self._lines = self._bytes = 0
        elif self._dropped_lines:  # no gaps in what is logged
            return False
        return self._lines < self._most_lines and self._bytes < self._most_bytes

    @property
    def seconds_to_report(self) -> float | None:
        """Time after which to call `report`; None: nothing was dropped."""
        return max(self._ends_at - self._monotonic(), 0.0) if self._dropped_lines else None

    def add(self, lines: Iterable[str], *, level: int = logging.WARNING) -> None:
        """Log lines that `printable_line` returned, as far as there is room."""
        for line in lines:
            size = len(line.encode())
            if self.has_room() and self._bytes + size <= self._most_bytes:
                self._lines += 1
                self._bytes += size
                self._logger.log(level, "%s", line)
            else:
                self.drop(1, size, level=level)

    def drop(self, lines: int, size: int, *, level: int = logging.WARNING) -> None:
        """Count lines of `size` bytes as dropped, unless the log is not to have lines of this level."""
        if not self._logger.isEnabledFor(level):
            return
        if not self._dropped_lines and lines:
            text = "it prints more than %g lines or %g bytes in %g s; the rest is counted and dropped"
            self._logger.warning(text, self._most_lines, self._most_bytes, WINDOW_SECONDS)
        self._dropped_lines += lines
        self._dropped_bytes += size

    def report(self) -> None:
        """Log how much was dropped, if there was anything."""
        lines, size = self._dropped_lines, self._dropped_bytes
        self._dropped_lines = self._dropped_bytes = 0
        if lines:
            self._logger.warning("%s of it dropped", f"{counted(lines, 'line')} ({counted(size, 'byte')})")


def printable_line(line: bytes) -> str:
    """Return a line for logs, errors and terminals, cut where it is too long. No character commands a terminal."""
    text = printable(line[:MAX_LINE_BYTES].decode(errors="backslashreplace").rstrip("\r\n"))
    return f"{text}…" if len(line) > MAX_LINE_BYTES else text


def text_for_clients(container: StartedContainer, text: str, lines: Sequence[str]) -> str:
    """Return the text of an error. If the container's settings let clients see them, the last lines follow."""
    if not container.output_in_errors:
        return text
    said = " | ".join(line for line in lines[-LINES_IN_ERROR:] if line.strip())
    return f"{text}; it printed last: {said[-CHARACTERS_IN_ERROR:]}" if said else text
