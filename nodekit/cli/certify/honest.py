"""Whether a class of tests still asks what its suite asks."""

import functools
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, cast

import pytest

import nodekit.testing
from nodekit.cli.certify.suites import is_ours

_OURS = Path(nodekit.testing.__file__).parent
_HERE = Path(__file__).parent
_BETWEEN = ("_pytest", "pluggy", __name__)
"""What is between a test and whoever skips it."""
_UNSAID = {"answer": "nobody has said what containers answer"}
"""Methods of suites by which a package says what its part is about, and the limit where it does not."""


def tests_of(suite: type) -> Mapping[str, Any]:
    """The tests of a suite as they are now."""
    return {name: inspect.getattr_static(suite, name) for name in dir(suite) if name.startswith("test_")}


def changed_tests(cls: type, tests: Mapping[str, Any]) -> list[str]:
    """Those of its suite's tests that a class, or whoever came before us, has replaced."""
    return [
        name
        for name, test in tests.items()
        if inspect.getattr_static(cls, name, None) is not test or not _is_written_here(test)
    ]


def _is_written_here(test: Any) -> bool:
    """Whether its code is one of nodekit's files."""
    code = getattr(inspect.unwrap(test), "__code__", None)
    return code is not None and Path(code.co_filename).is_relative_to(_OURS)


class Witness:
    """Has tests say that they ran, and to which end: reports can be made, and hooks can say that they have called."""

    def __init__(self) -> None:
        self._passed: set[str] = set()

    def watch(self, item: pytest.Function) -> None:
        """From now on, until it has run."""
        test: Any = item.obj

        @functools.wraps(test)
        async def awaited(*args: Any, **named: Any) -> None:
            await test(*args, **named)
            self._passed.add(item.nodeid)

        @functools.wraps(test)
        def called(*args: Any, **named: Any) -> None:
            test(*args, **named)
            self._passed.add(item.nodeid)

        item.obj = awaited if inspect.iscoroutinefunction(test) else called

    def saw(self, item: pytest.Item) -> bool:
        """Whether it ran to its end."""
        return item.nodeid in self._passed


def limits_of(cls: type, suite: type) -> Iterator[str]:
    """Where a class asks for less, or otherwise, by the means that its suite has for that."""
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
    """A method by which tests look. What a package has to define is no coroutine, or raises NotImplementedError."""
    is_fixture = hasattr(value, "_pytestfixturefunction")  # of pytest before 8.4
    is_async = inspect.iscoroutinefunction(value) and not is_fixture
    return is_async and "NotImplementedError" not in value.__code__.co_names


def _has(base: type, name: str) -> bool:
    return is_ours(base) and name in vars(base)


def note_who_skips() -> None:
    """From now on, who skips a test is known: tracebacks are cut short by whatever an exception passes through."""
    skipped: Any = pytest.skip.Exception
    initialise = skipped.__init__

    def noting(self: Any, *args: Any, **named: Any) -> None:
        initialise(self, *args, **named)
        self.by_its_suite = _is_of_a_suite(inspect.currentframe())

    skipped.__init__ = noting


def who_skipped(error: BaseException) -> tuple[bool, str]:
    """Whether it was the suite that said so, and not a mark or a fixture of the package; and why."""
    leaves = list(_leaves(error))
    return all(getattr(leaf, "by_its_suite", False) for leaf in leaves), str(leaves[0])


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """A skip inside a task group comes as a group."""
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _is_of_a_suite(frame: FrameType | None) -> bool:
    """Whether the first caller that is neither pytest nor this module is one."""
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_BETWEEN):
        frame = frame.f_back
    place = Path(frame.f_code.co_filename) if frame else Path()
    return place.is_relative_to(_OURS) and not place.is_relative_to(_HERE)
