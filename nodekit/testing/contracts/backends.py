"""Base of all suites: the event loops on which they run."""

from typing import Any

import pytest

NOT_APPLICABLE = "not applicable: "
"""Prefix of the reason for skipping a test of something that a component need not have."""

_FIXTURE = "anyio_backend"


class Contract:
    """Base of the suites: subclass one of them and define its fixture.

    Tests run on the event loops that come first in this order: a fixture ``anyio_backend`` of the class itself,
    `backends` if a subclass sets it, a fixture ``anyio_backend`` of the module or of a ``conftest.py``, asyncio.
    """

    pytestmark = pytest.mark.anyio

    backends: tuple[str, ...] = ("asyncio",)
    """Event loops on which each test runs; ``("asyncio", "trio")`` for a component that uses anyio only."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Hook of pytest: create the tests that need an event loop once for each of `backends`."""
        suite = type(self)
        if _FIXTURE not in metafunc.fixturenames or hasattr(suite, _FIXTURE) or _parametrized(metafunc):
            return
        said = any("backends" in vars(each) for each in suite.__mro__[: suite.__mro__.index(Contract)])
        if said or not _defined(metafunc):
            metafunc.parametrize(_FIXTURE, suite.backends, scope="module")


def _parametrized(metafunc: pytest.Metafunc) -> bool:
    """Return True if the test names its event loops itself."""
    return any(
        _FIXTURE in str(mark.args[0] if mark.args else mark.kwargs.get("argnames", ""))
        for mark in metafunc.definition.iter_markers("parametrize")
    )


def _defined(metafunc: pytest.Metafunc) -> bool:
    """Return True if a module or a ``conftest.py`` defines the fixture. Anyio's own runs on every installed event
    loop."""
    fixtures: Any = metafunc._arg2fixturedefs.get(_FIXTURE, ())  # pyright: ignore[reportPrivateUsage]
    return any(fixture.func.__module__ != "anyio.pytest_plugin" for fixture in fixtures)
