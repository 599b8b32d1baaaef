"""What containers say of themselves, asked all at once."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import anyio
import msgspec

from nodekit.container import ContainerId
from nodekit.runner import ContainerRunner, DescribingRunner

logger = logging.getLogger("nodekit.node")

DESCRIBE_SECONDS = 3.0
"""How long a container may take to say what it has; somebody waits for all of them."""
AT_ONCE = 16
"""Of a node's containers, whoever asks: such a call counts against no other limit."""


async def describe(
    runners: Sequence[ContainerRunner], model_id: str | None, at_once: anyio.Semaphore
) -> Mapping[ContainerId, msgspec.Raw]:
    """What each running container answers, by its id; one that fails, is late or says nothing is left out."""
    said: dict[ContainerId, msgspec.Raw] = {}

    async def ask(runner: DescribingRunner, id: ContainerId) -> None:
        try:
            with anyio.move_on_after(DESCRIBE_SECONDS):
                async with at_once:
                    answer = await runner.resources(id, model_id)
                if answer is not None:
                    said[id] = answer
        except Exception:  # of a runner, whose fault harms no other container's answer
            logger.exception("container %s: asking for its resources failed", id)

    describing = dict(_running(runners))
    async with anyio.create_task_group() as tasks:
        for id, runner in describing.items():
            tasks.start_soon(ask, runner, id)
    return {id: said[id] for id in describing if id in said}


def _running(runners: Sequence[ContainerRunner]) -> Iterator[tuple[ContainerId, DescribingRunner]]:
    """The containers that can be asked, in the order in which their runners have them."""
    for runner in runners:
        if hasattr(runner, "resources"):
            running = set(runner.running())
            for id in runner.containers:
                if id in running:
                    yield id, cast(DescribingRunner, runner)
