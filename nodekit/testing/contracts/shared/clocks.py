"""Wrong wall clocks for single threads, each of which is the place of a node."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest


async def thread_id() -> int:
    """Return the number of this thread, for `clock_of`."""
    return threading.get_ident()


@contextmanager
def clock_of(ident: int, seconds: float) -> Iterator[None]:
    """Shift the wall clock of one thread by `seconds`."""
    real: dict[str, Callable[[], Any]] = {"time": time.time, "time_ns": time.time_ns}

    def wrong(name: str, by: float) -> Callable[[], Any]:
        return lambda: real[name]() + (by if threading.get_ident() == ident else 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", wrong("time", seconds))
        patch.setattr(time, "time_ns", wrong("time_ns", int(seconds * 1e9)))
        yield
