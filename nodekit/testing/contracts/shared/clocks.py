"""Wrong wall clocks for single threads, each of which is the place of a node or of a store."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest


async def thread_id() -> int:
    """Return the number of this thread, for `wrong_clock`."""
    return threading.get_ident()


@contextmanager
def wrong_clock(seconds: float) -> Iterator[set[int]]:
    """Shift the wall clock by `seconds` for each thread whose number is added to the set that this yields.

    Make stores and nodes in it, also those of threads that are added later: they may keep the functions of the module
    `time` that they find.
    """
    threads: set[int] = set()
    real: dict[str, Callable[[], Any]] = {"time": time.time, "time_ns": time.time_ns}

    def wrong(name: str, by: float) -> Callable[[], Any]:
        return lambda: real[name]() + (by if threading.get_ident() in threads else 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", wrong("time", seconds))
        patch.setattr(time, "time_ns", wrong("time_ns", int(seconds * 1e9)))
        yield threads
