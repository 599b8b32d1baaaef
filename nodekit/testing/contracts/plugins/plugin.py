"""Promises of every plugin, independent of its hooks."""

import inspect
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import pytest

from nodekit import Container, Job, JobRequest, Node
from nodekit.testing.builders.components import make_function_runner, make_node
from nodekit.testing.contracts.backends import NOT_APPLICABLE, Contract
from nodekit.testing.leaks.detectors import no_leaks, unblocked_loop


class PluginContract(Contract):
    """Base of the suites of plugins. Define the fixture `plugin`: a new instance each time it is requested."""

    timeout_seconds: float = 20.0
    """Time limit for anything that must happen."""

    @pytest.fixture
    def plugin(self) -> Any:
        raise NotImplementedError("define a fixture `plugin` that gives a new instance of your plugin")

    def containers(self) -> Sequence[Container]:
        """Return the node's containers: ``echo``, ``fail`` and ``slow``, and containers with rules that your plugin
        reads."""
        return [Container(id=id) for id in ("echo", "fail", "slow")]

    def make_node(self, plugin: Any, **settings: Any) -> Node:
        """Make a node in memory that has the plugin, not entered."""
        return make_node(runners=[make_function_runner(self.containers())], plugins=[plugin], **settings)

    @asynccontextmanager
    async def running(self, plugin: Any) -> AsyncIterator[Node]:
        """Run such a node for a limited time."""
        with anyio.fail_after(self.timeout_seconds):
            async with self.make_node(plugin) as node:
                yield node

    async def finished(self, node: Node, request: JobRequest) -> Job:
        [job] = await node.wait([(await node.submit(request)).id])
        return job

    async def test_a_node_with_it_starts_and_stops_and_nothing_is_left(self, plugin: Any) -> None:
        async with no_leaks(), unblocked_loop(), self.running(plugin):
            await anyio.sleep(0.02)

    async def test_it_says_in_sentences_what_is_wrong(self, plugin: Any) -> None:
        if not hasattr(plugin, "nodekit_problems"):
            pytest.skip(f"{NOT_APPLICABLE}it has no nodekit_problems")
        async with self.running(plugin) as node:
            problems = call_hook(plugin.nodekit_problems, node=node)
            assert not isinstance(problems, str), "nodekit_problems gives a list of sentences, not one"
            assert all(isinstance(one, str) and one.strip() for one in problems), list(problems)

    async def test_an_error_while_a_node_runs_comes_back_as_it_is(self, plugin: Any) -> None:
        class Boom(Exception):
            pass

        with pytest.raises(Boom):
            async with self.running(plugin):
                raise Boom

    async def test_a_node_with_it_can_be_cancelled(self, plugin: Any) -> None:
        with anyio.CancelScope() as scope:
            async with self.running(plugin):
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught


def call_hook(hook: Callable[..., Any], **arguments: Any) -> Any:
    """Call a hook of a plugin with those of the arguments that it takes."""
    return hook(**{name: arguments[name] for name in inspect.signature(hook).parameters})


@contextmanager
def nothing_fails() -> Iterator[None]:
    """Raise `AssertionError` if a node logs in the block that a plugin failed."""
    records: list[logging.LogRecord] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    logger, listener = logging.getLogger("nodekit.plugins"), Listener(logging.ERROR)
    logger.addHandler(listener)
    try:
        yield
    finally:
        logger.removeHandler(listener)
    if records:
        raise AssertionError("\n".join(logging.Formatter().format(record) for record in records))
