"""The tests of a suite, and what a class of tests sets and leaves unsaid."""

import inspect
from collections.abc import Iterator

_UNSAID = {"answer": "nobody has said what containers answer"}
"""Methods of suites by which a package describes its component, and the limit if it does not."""


def tests_of(suite: type) -> set[str]:
    """Return the names of the tests of a suite."""
    return {name for name in dir(suite) if name.startswith("test_")}


def limits_of(cls: type, suite: type) -> Iterator[str]:
    """Yield the settings of a suite that differ in a class, and what the class does not say."""
    for name in dir(suite):
        given, own = inspect.getattr_static(suite, name), inspect.getattr_static(cls, name, None)
        if not name.startswith("_") and isinstance(given, bool | int | float) and own != given:
            yield f"`{name} = {own!r}`"
    for name, limit in _UNSAID.items():
        if hasattr(suite, name) and inspect.getattr_static(cls, name) is inspect.getattr_static(suite, name):
            yield limit
