"""Tests of a suite, run by pytest in this process; their outcomes are returned, and nothing is reported."""

import gc
from collections.abc import Collection, Generator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest
from paths import ROOT

_PLUGINS = ("terminal", "logging", "xdist", "faulthandler", "unraisableexception", "threadexception", "cacheprovider")
"""Plugins left out: they report, or change the process, which is up to the outer pytest."""
_OPTIONS = (
    *(f"-pno:{name}" for name in _PLUGINS),
    *(
        "-pno:hypothesispytest",
        "--assert=plain",  # assertions of the suite were rewritten when it was imported
        "--noconftest",
        "-s",
        f"-c{ROOT / 'pyproject.toml'}",
        f"--confcutdir={Path(__file__).parent}",
    ),
    *("-oaddopts=--import-mode=importlib --strict-markers", "-otimeout=0"),
)


@dataclass
class Outcomes:
    """Tests by the names of their functions."""

    passed: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    """Messages by test; a test with parameters fails as soon as one of them fails."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Reasons by test."""


def run(suite: type, tests: Collection[str], folder: Path) -> Outcomes:
    """Run some tests of a suite; their temporary files are in the folder."""
    plugin = _Plugin(suite, tests)
    gc.freeze()  # collecting what is new takes a tenth of the time that collecting all modules and tests takes
    try:
        done = pytest.main([*_OPTIONS, f"--basetemp={folder / 'nested'}", __file__], plugins=[plugin])
        gc.collect()  # what was left is complained of in the test that left it
    finally:
        gc.unfreeze()
    assert done in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED), plugin.broken or done
    return plugin.outcomes


class _Plugin:
    """The plugin of the inner pytest; it collects outcomes."""

    def __init__(self, suite: type, tests: Collection[str]) -> None:
        self.outcomes = Outcomes()
        self.broken = ""
        self._tests = tests
        self._module = ModuleType("nested_suite")
        self._module.TestSuite = suite  # type: ignore[attr-defined]

    def pytest_pycollect_makemodule(self, module_path: Path, parent: pytest.Collector) -> pytest.Module:
        collected: _Module = _Module.from_parent(parent, path=module_path)
        collected.stand_in = self._module
        return collected

    def pytest_collection_modifyitems(self, items: list[pytest.Function]) -> None:
        items[:] = [item for item in items if item.originalname in self._tests]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.broken += str(report.longrepr) if report.failed else ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Function) -> bool | None:
        return True if item.originalname in self.outcomes.failed else None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Function) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        name, told = item.originalname, self.outcomes
        if report.failed:
            told.failed.setdefault(name, report.longreprtext)
        elif report.skipped:
            told.skipped[name] = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        elif report.when == "call":
            told.passed.add(name)
        told.passed -= told.failed.keys()
        return report


class _Module(pytest.Module):
    """A module that is no file."""

    stand_in: ModuleType

    def _getobj(self) -> ModuleType:
        return self.stand_in
