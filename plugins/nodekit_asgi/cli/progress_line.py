"""The line that shows the progress of a job at a terminal."""

import os
import sys
import time
from types import TracebackType
from typing import Self

from nodekit_asgi.cli.output import one_line
from nodekit_asgi.cli.replies import History


class Progress:
    """A line on standard error, which is redrawn and removed at the end. Nothing is shown if it is not a terminal."""

    def __init__(self) -> None:
        self.shown = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._began = time.monotonic()
        self._drawn = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawn:
            self._draw("")

    def show(self, history: History | None) -> None:
        self._draw(progress_line(history, time.monotonic() - self._began))

    def _draw(self, text: str) -> None:
        if self.shown:
            self._drawn = True
            sys.stderr.write(f"\r{text[: _columns() - 1]}\x1b[K")
            sys.stderr.flush()


def progress_line(history: History | None, seconds: float) -> str:
    """Return the line: the passed time, the current step, and the attempts if the last one failed."""
    passed = f"{int(seconds)} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60} s"
    if history is None:
        return f"{passed}  waiting"
    number = sum(step.has_output for step in history.steps) + 1
    # another pipeline may take other steps than the requested ones
    count = f"{number} of {len(history.containers)}" if history.pipeline == "sequence" else str(number)
    texts = [f"{passed}  step {count}: {one_line(history.due or '')}"]
    last = history.steps[-1] if history.steps else None
    if last and last.attempts and (failure := last.attempts[-1].error):
        texts.append(f"attempt {len(last.attempts) + 1}, after: {one_line(failure)}")
    return ", ".join(texts)


def _columns() -> int:
    """Return the width of the terminal; 80 if it is unknown, which some terminals report as 0."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except OSError:
        return 80
