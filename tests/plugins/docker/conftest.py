"""Tests of the runner `docker` leave nothing behind: no container, no thread, no descriptor."""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from docker_runs import Bed


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def bed(engine: Any, nothing_is_left_open: None) -> Iterator[Bed]:
    yield from _bed(engine)


@pytest.fixture(scope="module")
def module_bed(engine: Any) -> Iterator[Bed]:
    """Yield a bed for containers that several tests share."""
    yield from _bed(engine)


def _bed(engine: Any) -> Iterator[Bed]:
    bed = Bed(engine)
    try:
        yield bed
    finally:
        left = bed.clear()
        shutil.rmtree(bed.state, ignore_errors=True)
    assert left == [], "containers are left on the engine"


@pytest.fixture
def nothing_is_left_open(engine: Any) -> Iterator[None]:
    """Check that nothing stays open. Resources that are released in the background may take a moment."""
    before = _open(engine)
    yield
    end = time.monotonic() + 60
    while (now := _open(engine)) > before and time.monotonic() < end:
        time.sleep(0.01)
    assert now <= before, f"(descriptors, threads): {before} before, {now} after"


def _open(engine: Any) -> tuple[int, int]:
    """Return the number of descriptors, without those of the tests' own client, and of threads of the runner."""
    engine.client.close()  # it connects again when it is used again
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("nodekit-docker")]
    return len(os.listdir("/proc/self/fd")), len(threads)
