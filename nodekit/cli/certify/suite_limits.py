"""Differences between a class of tests and the suite that it subclasses."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from nodekit.cli.certify.suites import is_ours

_UNSAID = {"answer": "`answer` does not define the outputs of containers"}
"""Methods of suites by which a package describes its component, and the limit if it does not."""


def tests_of(suite: type) -> Mapping[str, Any]:
    """Return the tests of a suite by name."""
    return {name: inspect.getattr_static(suite, name) for name in dir(suite) if name.startswith("test_")}


def changed_tests(cls: type, suite: type) -> list[str]:
    """Return the tests of a suite that a class overrides."""
    return [name for name, test in tests_of(suite).items() if inspect.getattr_static(cls, name, None) is not test]


def limits_of(cls: type, suite: type) -> Iterator[str]:
    """Yield the settings and helpers of a suite that a class replaces, by the means that the suite has for that."""
    for name in dir(suite):
        given, own = inspect.getattr_static(suite, name), inspect.getattr_static(cls, name, None)
        if (
            name.startswith(("_", "test_", "pytestmark"))
            or own is given
            or not any(_has(base, name) for base in suite.__mro__)
        ):
            continue
        if isinstance(given, bool | int | float):
            if own != given:
                yield f"`{name} = {own!r}`"
        elif _is_helper(given):
            yield f"its own `{name}`"
    for name, limit in _UNSAID.items():
        if hasattr(suite, name) and inspect.getattr_static(cls, name) is inspect.getattr_static(suite, name):
            yield limit


def _is_helper(value: Any) -> bool:
    """Return True for a method by which tests look. One that a package must define is sync, or is not implemented."""
    is_fixture = hasattr(value, "_pytestfixturefunction")  # of pytest before 8.4
    is_async = inspect.iscoroutinefunction(value) and not is_fixture
    return is_async and "NotImplementedError" not in value.__code__.co_names


def _has(base: type, name: str) -> bool:
    return is_ours(base) and name in vars(base)
