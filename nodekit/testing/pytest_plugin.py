"""A plugin for pytest: a node in memory and its parts, time, faults and detectors as fixtures.

In a ``conftest.py``::

    pytest_plugins = ["nodekit.testing.pytest_plugin"]

`node` is made of other fixtures, each of which a module or a class may define anew: `node_store`, `node_runners`,
`node_plugins`, `node_pipelines` and `node_settings`.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from nodekit import ContainerRunner, JobStore, Node, Pipeline
from nodekit.testing.builders.components import make_function_runner, make_node, make_store
from nodekit.testing.clock import VirtualClock
from nodekit.testing.faults.injection import Faults
from nodekit.testing.leaks import detectors

if TYPE_CHECKING:
    from nodekit.testing.builders.components import FunctionRunner


@pytest.fixture
def function_runner() -> "FunctionRunner":
    """A runner of the containers ``echo``, ``fail`` and ``slow``, not entered; add functions of yours to it."""
    return make_function_runner()


@pytest.fixture
def node_store() -> JobStore:
    """The store of `node`: one in memory."""
    return make_store()


@pytest.fixture
def node_runners(function_runner: "FunctionRunner") -> Sequence[ContainerRunner]:
    """The runners of `node`: `function_runner`."""
    return [function_runner]


@pytest.fixture
def node_plugins() -> Sequence[object]:
    """The plugins of `node`: none."""
    return []


@pytest.fixture
def node_pipelines() -> Mapping[str, Pipeline]:
    """The pipelines of `node` beside ``sequence``: none."""
    return {}


@pytest.fixture
def node_settings() -> Mapping[str, Any]:
    """Further arguments of `Node` for `node`: none."""
    return {}


@pytest.fixture
async def node(
    node_store: JobStore,
    node_runners: Sequence[ContainerRunner],
    node_plugins: Sequence[object],
    node_pipelines: Mapping[str, Pipeline],
    node_settings: Mapping[str, Any],
) -> AsyncIterator[Node]:
    """A node that runs."""
    composed = make_node(
        store=node_store, runners=node_runners, plugins=node_plugins, pipelines=node_pipelines, **node_settings
    )
    async with composed as node:
        yield node


@pytest.fixture
def virtual_clock() -> Iterator[VirtualClock]:
    """Time that the test moves, from here on; ask for it before what it is to move."""
    with VirtualClock() as clock:
        yield clock


@pytest.fixture
def faults() -> Faults:
    """What goes wrong, as the test says: put it around parts, in `node_store` and `node_runners`."""
    return Faults()


@pytest.fixture
async def unblocked_loop() -> AsyncIterator[None]:
    """The test fails where the event loop was blocked meanwhile."""
    async with detectors.unblocked_loop():
        yield


@pytest.fixture
async def no_leaked_tasks() -> AsyncIterator[None]:
    """The test fails where tasks are left after it, and after the fixtures that were asked for behind this one."""
    async with detectors.no_leaked_tasks():
        yield


@pytest.fixture
async def no_leaked_descriptors() -> AsyncIterator[None]:
    """As `no_leaked_tasks`, of open file descriptors."""
    async with detectors.no_leaked_descriptors():
        yield


@pytest.fixture
async def no_leaked_threads() -> AsyncIterator[None]:
    """As `no_leaked_tasks`, of threads that keep the process from ending."""
    async with detectors.no_leaked_threads():
        yield


@pytest.fixture
async def no_leaks() -> AsyncIterator[None]:
    """As `no_leaked_tasks`, of tasks, descriptors and threads."""
    async with detectors.no_leaks():
        yield
