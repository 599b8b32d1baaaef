"""The line that says, at a terminal, how far a job is."""

import os
import sys
import time
from types import TracebackType
from typing import Self

from nodekit_asgi.cli.output import printable
from nodekit_asgi.cli.replies import History


class Progress:
    """One line on standard error, drawn over and over, and gone at the end. Elsewhere than at a terminal: nothing."""

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
    """Which step, how long, how many attempts."""
    passed = f"{int(seconds)} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60} s"
    if history is None:
        return f"{passed}  waiting"
    number = sum(step.has_output for step in history.steps) + 1
    # another pipeline may take other steps than those that are asked for
    count = f"{number} of {len(history.containers)}" if history.pipeline == "sequence" else str(number)
    words = [f"{passed}  step {count}: {printable(history.due or '')}"]
    last = history.steps[-1] if history.steps else None
    if last and last.attempts and (failure := last.attempts[-1].error):
        words.append(f"attempt {len(last.attempts) + 1}, after: {printable(failure)}")
    return ", ".join(words)


def _columns() -> int:
    """Some terminals say 0 for what they do not know."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except OSError:
        return 80
