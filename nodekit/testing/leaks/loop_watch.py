"""A thread that checks again and again that the event loop makes turns."""

import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import anyio.lowlevel

TICKS = 8
TICK_SECONDS = 0.05
_WAITING = ("selectors.py", "_io_epoll.py", "_io_kqueue.py")
"""Files in which an idle event loop waits. A loop that stays there was not woken, and is not blocked."""


class Watcher:
    """Asks the event loop at each tick to set a flag. Enter it in the loop's thread."""

    def __init__(self, ticks: int, tick_seconds: float) -> None:
        self.stack: str | None = None
        """Stack of the event loop's thread when it was first found blocked."""
        self._ticks = ticks
        self._tick_seconds = tick_seconds
        self._round = threading.Event()
        self._over = threading.Event()

    def __enter__(self) -> Self:
        self._loop = threading.get_ident()
        self._schedstat = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        self._held_up = self._held_up_seconds()
        self._ask = _soon()
        self._thread = threading.Thread(target=self._watch, name="watcher of the event loop", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        still = 0.0
        self._ask(self._round.set)
        before = time.perf_counter()  # not `monotonic`, which a virtual clock moves
        while not self._over.wait(self._tick_seconds) and self.stack is None:
            now = time.perf_counter()
            on_time = now - before < 3 * self._tick_seconds
            before = now
            waited, self._held_up = -self._held_up, self._held_up_seconds()
            waited += self._held_up
            if self._round.is_set():
                still = 0
                self._round.clear()
                self._ask(self._round.set)
            elif on_time:  # otherwise this thread was late as well: the machine, or the interpreter, is busy
                still += max(0, 1 - waited / self._tick_seconds)  # time without a processor is not the loop's fault
                if still >= self._ticks:
                    self._look()
                    still = 0

    def _held_up_seconds(self) -> float:
        """Return how long the loop's thread has been ready and got no processor. It is known on Linux only."""
        try:
            return int(self._schedstat.read_text().split()[1]) / 1e9
        except (OSError, IndexError, ValueError):
            return 0.0

    def _look(self) -> None:
        frame = sys._current_frames().get(self._loop)  # pyright: ignore[reportPrivateUsage]
        if frame is not None and not _waits(frame) and not self._round.is_set():
            self.stack = "".join(traceback.format_stack(frame)[-12:])


def _waits(frame: FrameType) -> bool:
    outer = frame.f_back
    inside = frame.f_code.co_filename.endswith(_WAITING)
    return inside and outer is not None and outer.f_code.co_filename.endswith(("base_events.py", "_run.py"))


def _soon() -> Callable[[Callable[[], object]], object]:
    """Return a function by which another thread can schedule a call in this event loop."""
    native: Any = anyio.lowlevel.current_token().native_token
    soon: Callable[[Callable[[], object]], object]
    soon = native.call_soon_threadsafe if hasattr(native, "call_soon_threadsafe") else native.run_sync_soon
    return soon
