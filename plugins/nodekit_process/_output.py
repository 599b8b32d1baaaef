"""The output of a process, line by line."""

import logging
from collections import deque

from nodekit import ContainerId

MAX_LINE_BYTES = 4096
"""Size after which the rest of a line is dropped."""
KEPT_LINES = 20


class Output:
    """A sink that sends lines to the log ``nodekit.container.<id>`` and remembers the last ones."""

    def __init__(self, id: ContainerId) -> None:
        self.last_lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._logger = logging.getLogger(f"nodekit.container.{id}")
        self._line = b""

    def feed(self, piece: bytes) -> None:
        """Take the next piece of output, which may end anywhere in a line."""
        *lines, rest = piece.split(b"\n")
        for line in lines:
            self._log(self._line + line)
            self._line = b""
        self._line = (self._line + rest)[: MAX_LINE_BYTES + 1]

    def end(self) -> None:
        """Finish the output. Its last line need not end with a newline."""
        if self._line:
            self._log(self._line)
        self._line = b""

    def _log(self, line: bytes) -> None:
        text = line[:MAX_LINE_BYTES].decode(errors="replace").rstrip("\r")
        if len(line) > MAX_LINE_BYTES:
            text += "…"
        self.last_lines.append(text)
        self._logger.info("%s", text)
