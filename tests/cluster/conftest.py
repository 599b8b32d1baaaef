"""Fixtures of tests that run whole clusters on the engines."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from engine.fixtures import or_unavailable

from cluster.drill import LEASE_SECONDS
from cluster.engines import Engine, NoEngine, engines


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Run the engine that the test names. Nodes find in the folder what they import."""
    with ExitStack() as stack:
        with or_unavailable(NoEngine):
            engine = stack.enter_context(engines()[request.param](tmp_path, LEASE_SECONDS))
        yield engine
