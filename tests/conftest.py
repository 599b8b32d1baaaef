"""Fixtures and settings of all tests. The core is tested on asyncio and trio; modules for asyncio alone say so."""

import os
import signal
import sys
from collections.abc import Iterator

import chance
import pytest

from nodekit.testing import VirtualClock

sys.dont_write_bytecode = False  # otherwise each worker, and each process of a test, compiles all of nodekit
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault("PYTEST_ADDOPTS", "-p no:schemathesis")  # as in pyproject.toml

pytest_plugins = ["engine.fixtures"]


def pytest_report_header() -> str:
    return chance.SAID


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if terminalreporter.stats.get("failed"):
        terminalreporter.write_line(chance.SAID)


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts background jobs like this
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
