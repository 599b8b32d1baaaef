"""Fixtures and settings of all tests. The core is tested on asyncio and trio; modules for asyncio alone say so."""

import gc
import os
import signal
import sys
from collections.abc import Iterator

import chance
import pytest

from nodekit.testing import VirtualClock

sys.dont_write_bytecode = False  # or each process that a test starts, and each worker, compiles all of nodekit anew
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault("PYTEST_ADDOPTS", "-p no:schemathesis")  # nor does each pytest need it, as pyproject.toml says

pytest_plugins = ["engine.fixtures"]


def pytest_report_header() -> str:
    return chance.SAID


def pytest_collection_finish() -> None:
    """Hide the collected tests and all modules from the garbage collector: they stay until the end."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    gc.unfreeze()  # plugins that look for referrers when they report find them again


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if terminalreporter.stats.get("failed"):
        terminalreporter.write_line(chance.SAID)


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so a shell starts what runs in its background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests interrupt what they start


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend


@pytest.fixture
def clock() -> Iterator[VirtualClock]:
    """Time that a test moves."""
    with VirtualClock() as clock:
        yield clock
