"""Fixtures of the test bed. Tests of `engine` run on two workers with an engine each, the second in its own network."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest

APART = {"test_drills", "test_engine", "test_identity", "test_images", "test_labels", "test_once", "test_starting"}
"""Modules whose tests run on the second engine: about half of the time. None of them needs more than loopback."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {"engine", "registry", "private_registry"} & set(getattr(item, "fixturenames", ())):
            group = "docker apart" if item.path.stem in APART and _second_engine() else "docker"
            item.add_marker(pytest.mark.xdist_group(group))
            item.add_marker(pytest.mark.engine)


@cache
def _second_engine() -> bool:
    """Return True if there are workers to share engines out to, and the tests bring up their own."""
    from engine.bed import is_there

    return int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1 and not is_there()


def unavailable(reason: object) -> None:
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"CI=true, so this is no reason to skip: {reason}", pytrace=False)
    pytest.skip(str(reason))


@pytest.hookimpl(tryfirst=True)  # before fixtures are made
def pytest_runtest_setup(item: pytest.Item) -> None:
    group = item.get_closest_marker("xdist_group")
    if group is not None and group.args == ("docker apart",):
        _leave_network()


@cache  # once per process is enough
def _leave_network() -> None:
    from engine import bed, debian, network

    with or_unavailable(bed.NoEngine, debian.Missing):
        bed.prepare()  # from there, nothing can be installed
        network.leave_network()


@pytest.fixture(scope="session")
def engine() -> Iterator[Any]:
    """An `engine.Engine` with everything that tests need; the same one for all tests of a worker."""
    from engine.bed import NoEngine, open_engine

    with or_unavailable(NoEngine):
        with open_engine() as found:
            yield found


@contextmanager
def or_unavailable(*errors: type[Exception]) -> Iterator[None]:
    """Skip or fail the test on these errors, which say what the system lacks."""
    try:
        yield
    except errors as error:
        unavailable(error)


@pytest.fixture
def dockerd(engine: Any) -> Iterator[Any]:
    """Drills on the tests' engine (`engine.Dockerd`), repaired afterwards. On another one, the test is skipped."""
    if engine.dockerd is None:
        pytest.skip(f"breaks the engine, and {engine.host} is not ours; without it the tests bring up their own")
    yield engine.dockerd
    engine.dockerd.repair()


@pytest.fixture(scope="session")
def registry(engine: Any) -> Iterator[Any]:
    """An `engine.Registry` that anybody may pull from."""
    yield from _registry(private=False)


@pytest.fixture(scope="session")
def private_registry(engine: Any) -> Iterator[Any]:
    """An `engine.Registry` that asks for `private_registry.account`."""
    yield from _registry(private=True)


def _registry(*, private: bool) -> Iterator[Any]:
    from engine.debian import Missing
    from engine.registry import Registry

    with or_unavailable(Missing), Registry(private=private) as registry:
        yield registry
