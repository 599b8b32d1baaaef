"""What all suites have in common: on which event loops they run."""

from typing import Any

import pytest

NOT_APPLICABLE = "not applicable: "
"""How the reason begins for which a suite skips a test of something that a part need not have."""

_FIXTURE = "anyio_backend"


class Contract:
    """Base of the suites: subclass one of them and define its fixture.

    The nearest word on event loops is the one that counts: a fixture ``anyio_backend`` of the class itself, `backends`
    where a subclass says it, a fixture ``anyio_backend`` of the module or of a ``conftest.py``, and else asyncio.
    """

    pytestmark = pytest.mark.anyio

    backends: tuple[str, ...] = ("asyncio",)
    """The event loops that each test runs on; ``("asyncio", "trio")`` for a part that stands on anyio alone."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Pytest's hook: the tests that need an event loop are made once for each of `backends`."""
        suite = type(self)
        if _FIXTURE not in metafunc.fixturenames or hasattr(suite, _FIXTURE) or _parametrized(metafunc):
            return
        said = any("backends" in vars(each) for each in suite.__mro__[: suite.__mro__.index(Contract)])
        if said or not _defined(metafunc):
            metafunc.parametrize(_FIXTURE, suite.backends, scope="module")


def _parametrized(metafunc: pytest.Metafunc) -> bool:
    """Whether the test names its event loops itself."""
    return any(
        _FIXTURE in str(mark.args[0] if mark.args else mark.kwargs.get("argnames", ""))
        for mark in metafunc.definition.iter_markers("parametrize")
    )


def _defined(metafunc: pytest.Metafunc) -> bool:
    """Whether a module or a ``conftest.py`` has the fixture; anyio's own asks for every loop that is there."""
    fixtures: Any = metafunc._arg2fixturedefs.get(_FIXTURE, ())  # pyright: ignore[reportPrivateUsage]
    return any(fixture.func.__module__ != "anyio.pytest_plugin" for fixture in fixtures)
