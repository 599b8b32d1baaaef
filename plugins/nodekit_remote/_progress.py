"""The log of a start that takes long: a line now and then that says what is waited for."""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

FIRST_SECONDS = 5.0
"""Time after which the first line is logged. The pauses between the next ones double."""
LONGEST_SECONDS = 600.0
"""Longest pause between two lines."""


class StartProgress:
    """Logs what the start of a container waits for, for as long as the context lasts.

    `waits_for` says it. It is called when a line is due, so it can look at what is there just then. `seconds` is the
    limit of the wait. The lines come from a timer of the event loop, so that none is late because a call takes long.
    """

    def __init__(
        self, logger: logging.Logger, container: str, waits_for: Callable[[], str], *, seconds: float = math.inf
    ) -> None:
        self._logger, self._container, self._seconds = logger, container, seconds
        self._waits_for = waits_for
        self._timer: asyncio.TimerHandle | None = None
        self._began = 0.0
        self._pause = 0.0

    def __enter__(self) -> Self:
        self._began, self._pause = time.monotonic(), FIRST_SECONDS
        self._arm()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._pause, self._tell)

    def _tell(self) -> None:
        took = f"{time.monotonic() - self._began:.0f} s"
        limit = f" of {self._seconds:g} s" if math.isfinite(self._seconds) else ""
        text = "container %r: waiting for %s (%s%s)"
        self._logger.info(text, self._container, self._waits_for(), took, limit)
        self._pause = min(2 * self._pause, LONGEST_SECONDS)
        self._arm()
