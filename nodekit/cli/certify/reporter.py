"""A plugin of pytest that runs only the tests of suites, and reports their results."""

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import pytest

from nodekit.cli.certify.messages import ORDER, Begun, Broken, Ended, Found, Message, Order, Outcome, decoded, encoded
from nodekit.cli.certify.suites import Suite, limits_of, suite_of, tests_of

MAX_TEXT = 2000


def pytest_configure(config: pytest.Config) -> None:
    order = decoded(Path(os.environ[ORDER]), Order)
    config.pluginmanager.register(Reporter(order), "nodekit-certify")


class Reporter:
    """The hooks that write messages to the file which the order names."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._phases: dict[str, list[tuple[Outcome, str]]] = {}

    def send(self, message: Message) -> None:
        with self._order.report.open("ab") as report:
            report.write(encoded(message) + b"\n")

    # -- what is there ----------------------------------------------------------------------------

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.send(Broken(f"{report.nodeid} cannot be collected", _shortened(str(report.longrepr))))

    @pytest.hookimpl(trylast=True)  # after the package's own conftest.py, which may remove tests
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        by_class: dict[str, list[pytest.Function]] = {}
        for item in items:
            if isinstance(item, pytest.Function) and suite_of(item.cls):
                by_class.setdefault(_class_id(item), []).append(item)
        for id, tests in by_class.items():
            self.send(self._found(id, tests))
        items[:] = [item for tests in by_class.values() for item in tests if item.nodeid not in self._order.done]

    def _found(self, id: str, items: list[pytest.Function]) -> Found:
        cls: Any = items[0].cls
        suite, suite_class = _suite(cls)
        missing = tests_of(suite_class) - {item.originalname for item in items}  # options of the package, such as -k
        return Found(
            id=id,
            suite=suite.name,
            kind=suite.kind,
            items=len(items) + len(missing),
            limits=tuple(limits_of(cls, suite_class)),
        )

    # -- what comes of it -------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        assert isinstance(item, pytest.Function)
        of, test = _class_id(item), item.originalname
        self.send(Begun(item.nodeid, of, test))
        result = yield
        outcome, text = _worst(self._phases.pop(item.nodeid, []))
        self.send(
            Ended(
                id=item.nodeid,
                of=of,
                test=test,
                outcome=outcome,
                text=_shortened(text),
                backend=_backend(item),
                component=_component(item, _suite(item.cls)[0].fixture),
            )
        )
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        self._phases.setdefault(item.nodeid, []).append(_seen(report, call.excinfo))
        if report.when == "call":
            item.stash[_FUNCARGS] = dict(getattr(item, "funcargs", {}))  # pytest drops them before the end
        return report


_NOT_RUN = "it did not run"
_FUNCARGS = pytest.StashKey[dict[str, Any]]()


def _seen(report: pytest.TestReport, error: pytest.ExceptionInfo[BaseException] | None) -> tuple[Outcome, str]:
    if report.failed:
        return "failed", _message(report)
    if report.skipped:
        return "skipped", getattr(report, "wasxfail", "") or str(_first_leaf(error.value) if error else "")
    return "passed", ""


def _first_leaf(error: BaseException) -> BaseException:
    """Return the skip itself; inside a task group it comes as a group."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error


def _worst(phases: list[tuple[Outcome, str]]) -> tuple[Outcome, str]:
    """Return the worst result of set-up, call and tear-down."""
    for outcome in ("failed", "skipped"):
        for phase in phases:
            if phase[0] == outcome:
                return phase
    return phases[0] if phases else ("failed", _NOT_RUN)


def _message(report: pytest.TestReport) -> str:
    """Return the failed assertion, or the error raised."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(getattr(crash, "message", None) or report.longrepr or "it failed")
    return text if report.when == "call" else f"({report.when}) {text}"


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]} …"


def _suite(cls: type | None) -> tuple[Suite, type]:
    found = suite_of(cls)
    assert found is not None
    return found


def _class_id(item: pytest.Function) -> str:
    return item.nodeid.partition("[")[0].rpartition("::")[0]


def _backend(item: pytest.Item) -> str:
    """Return ``asyncio`` or ``trio``, without options."""
    match _given(item).get("anyio_backend", ""):
        case (str(name), *_):
            return name
        case backend:
            return str(backend)


def _component(item: pytest.Item, fixture: str) -> str:
    """Return the name of the component's class. For a class that the tests define, return that of its nearest base."""
    component = _given(item).get(fixture)
    if component is None:
        return ""
    own = getattr(getattr(item, "module", None), "__name__", None)
    return name_of(next(kind for kind in type(component).__mro__ if kind.__module__ != own))


def _given(item: pytest.Item) -> dict[str, Any]:
    """Return the fixtures that a test used, by name."""
    none: dict[str, Any] = {}
    return item.stash.get(_FUNCARGS, none)


def class_name(component: object) -> str:
    """Return the full name of a component's class."""
    return name_of(type(component))


def name_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
