"""The line that shows the progress of jobs at a terminal."""

import os
import sys
import time
from types import TracebackType
from typing import Self

from nodekit import counted
from nodekit_asgi.cli.output import columns_of, fit, one_line
from nodekit_asgi.cli.replies import History


class Progress:
    """A line on standard error, which is redrawn and removed at the end. Nothing is shown if it is not a terminal."""

    def __init__(self) -> None:
        self.shown = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._began = time.monotonic()
        self._drawn = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hide()

    def hide(self) -> None:
        """Remove the line, so that something else can be printed."""
        if self._drawn:
            self._draw("")
            self._drawn = False

    def show(self, history: History | None) -> None:
        self._draw(progress_line(history, time.monotonic() - self._began))

    def show_count(self, number: int, total: int) -> None:
        self._draw(f"{_passed(time.monotonic() - self._began)}  {number} of {counted(total, 'job')} finished")

    def _draw(self, text: str) -> None:
        if self.shown:
            self._drawn = True
            sys.stderr.write(f"\r{fit(text, (columns_of(sys.stderr) or 80) - 1)}\x1b[K")
            sys.stderr.flush()


def progress_line(history: History | None, seconds: float) -> str:
    """Return the line: the passed time, the current step, and the attempts if the last one failed."""
    passed = _passed(seconds)
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


def _passed(seconds: float) -> str:
    return f"{int(seconds)} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60} s"
