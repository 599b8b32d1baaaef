"""A plugin for pytest with fixtures: a node in memory and its components, a clock, faults and detectors.

In a ``conftest.py``::

    pytest_plugins = ["nodekit.testing.pytest_plugin"]

`node` is composed of other fixtures, and a module or a class may redefine each of them: `node_store`, `node_runners`,
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
    """A runner of the containers ``echo``, ``fail`` and ``slow``, not entered. Add your own functions to it."""
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
    """A running node."""
    composed = make_node(
        store=node_store, runners=node_runners, plugins=node_plugins, pipelines=node_pipelines, **node_settings
    )
    async with composed as node:
        yield node


@pytest.fixture
def virtual_clock() -> Iterator[VirtualClock]:
    """A clock that the test moves. Request it before the nodes and stores that it moves, such as `node`."""
    with VirtualClock() as clock:
        yield clock


@pytest.fixture
def faults() -> Faults:
    """Faults that the test chooses. Put them around components in `node_store` and `node_runners`."""
    return Faults()


@pytest.fixture
async def unblocked_loop() -> AsyncIterator[None]:
    """Fail the test if the event loop was blocked meanwhile."""
    async with detectors.unblocked_loop():
        yield


@pytest.fixture
async def no_leaked_tasks() -> AsyncIterator[None]:
    """Fail the test if tasks are left after it, and after the fixtures that were requested later than this one."""
    async with detectors.no_leaked_tasks():
        yield


@pytest.fixture
async def no_leaked_descriptors() -> AsyncIterator[None]:
    """Fail like `no_leaked_tasks`, for open file descriptors."""
    async with detectors.no_leaked_descriptors():
        yield


@pytest.fixture
async def no_leaked_threads() -> AsyncIterator[None]:
    """Fail like `no_leaked_tasks`, for threads that keep the process from ending."""
    async with detectors.no_leaked_threads():
        yield


@pytest.fixture
async def no_leaks() -> AsyncIterator[None]:
    """Fail like `no_leaked_tasks`, for tasks, descriptors and threads."""
    async with detectors.no_leaks():
        yield
