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


# A shell starts background jobs with some signals ignored, and so does nohup. Tests send them to what they start.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend


@pytest.fixture
def clock() -> Iterator[VirtualClock]:
    """Time that a test moves."""
    with VirtualClock() as clock:
        yield clock
