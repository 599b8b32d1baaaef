"""Descriptions of containers by themselves, all requested at once."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import cast

import anyio
import msgspec

from nodekit.concurrency.time_limit import time_limit
from nodekit.interfaces.component_calls import is_fault
from nodekit.interfaces.runner import ContainerRunner, DescribingRunner
from nodekit.model.container import ContainerId

logger = logging.getLogger("nodekit.node")

DESCRIBE_SECONDS = 3.0
"""Maximum time for a container's description. A caller waits for all of them."""
AT_ONCE = 16
"""Maximum number of these calls at once in a node, for all callers. They count against no other limit."""


async def describe(
    runners: Sequence[ContainerRunner],
    running: Collection[ContainerId],
    model_id: str | None,
    at_once: anyio.Semaphore,
) -> Mapping[ContainerId, msgspec.Raw]:
    """Return the answers of `running` containers, by id; one that fails, is late or says nothing is left out."""
    said: dict[ContainerId, msgspec.Raw] = {}

    async def ask(runner: DescribingRunner, id: ContainerId) -> None:
        try:
            with time_limit(DESCRIBE_SECONDS):
                async with at_once:
                    answer = await runner.resources(id, model_id)
                if answer is not None:
                    said[id] = msgspec.convert(answer, msgspec.Raw, strict=True)
        except BaseException as error:  # a runner's fault must not affect the answers of other containers
            if not is_fault(error):
                raise
            logger.exception("container %r: asking for its resources failed", id)

    describing = dict(_asked(runners, running))
    async with anyio.create_task_group() as tasks:
        for id, runner in describing.items():
            tasks.start_soon(ask, runner, id)
    return {id: said[id] for id in describing if id in said}


def _asked(
    runners: Sequence[ContainerRunner], running: Collection[ContainerId]
) -> Iterator[tuple[ContainerId, DescribingRunner]]:
    """Yield the containers that can be asked, in the order of their runners."""
    for runner in runners:
        if hasattr(runner, "resources"):
            for id in runner.containers:
                if id in running:
                    yield id, cast(DescribingRunner, runner)
