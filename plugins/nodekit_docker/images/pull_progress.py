"""The display of pulls: one bar for each in a terminal, lines in the log otherwise."""

import logging
import os
import sys
import threading
import time
from types import TracebackType
from typing import Any, Protocol, Self

from nodekit_docker.images.pull import Pulled
from nodekit_docker.sizes import shown_size

logger = logging.getLogger("nodekit.docker")

LINE_SECONDS = 10.0


class Display(Protocol):
    """The display of one pull; `update` is called in the thread that pulls."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def update(self, pulled: Pulled) -> None: ...


def display(image: str) -> Display:
    """Return the display of one pull."""
    draws = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    return _Bar(image) if draws else _Lines(image)


class _Lines:
    def __init__(self, image: str) -> None:
        self._image = image

    def __enter__(self) -> Self:
        logger.info("image %s: pulling", self._image)
        self._began = self._logged = time.monotonic()
        return self

    def update(self, pulled: Pulled) -> None:
        if time.monotonic() - self._logged >= LINE_SECONDS:
            self._logged = time.monotonic()
            logger.info("image %s: %s of %s", self._image, shown_size(pulled.done), shown_size(pulled.total))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            logger.info("image %s: pulled in %.1f s", self._image, time.monotonic() - self._began)


class _Bar:
    """A bar of tqdm, which places several bars below each other. tqdm is imported only here."""

    def __init__(self, image: str) -> None:
        self._image = image
        self._lock = threading.Lock()
        self._bar: Any = None

    def __enter__(self) -> Self:
        from tqdm import tqdm

        self._bar = tqdm(desc=self._image, total=0, unit="B", unit_scale=True, unit_divisor=1024, leave=True)
        return self

    def update(self, pulled: Pulled) -> None:
        with self._lock:
            if self._bar is not None:
                self._bar.total = max(pulled.total, pulled.done)
                self._bar.update(pulled.done - self._bar.n)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            bar, self._bar = self._bar, None
            bar.close()
