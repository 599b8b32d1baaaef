"""Fixtures of the test bed. Whoever uses `engine` is run on one worker, as one engine serves all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {"engine", "registry", "private_registry"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group("docker"))
            item.add_marker(pytest.mark.engine)


def unavailable(reason: object) -> None:
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"CI=true, so this is no reason to skip: {reason}", pytrace=False)
    pytest.skip(str(reason))


@pytest.fixture(scope="session")
def engine() -> Iterator[Any]:
    """An `engine.Engine` with everything that tests need; the same one for all of them."""
    from engine.bed import NoEngine, open_engine

    with or_unavailable(NoEngine):
        with open_engine() as found:
            yield found


@contextmanager
def or_unavailable(*errors: type[Exception]) -> Iterator[None]:
    """These errors say what the system lacks."""
    try:
        yield
    except errors as error:
        unavailable(error)


@pytest.fixture
def dockerd(engine: Any) -> Iterator[Any]:
    """Drills on our own engine (`engine.Dockerd`), repaired afterwards. On somebody else's, the test is skipped."""
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
