"""What a runner that starts its containers itself answers a node."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import anyio
import msgspec
from anyio.abc import TaskGroup, TaskStatus

from nodekit import Container, ContainerId, ContainerOutput, EnvValue, NotStarted, Problem, Secret, Step
from nodekit_remote._http import Streamed


class Upkeep(Protocol):
    """One container, kept up for as long as `run` runs."""

    @property
    def up(self) -> bool:
        """Whether it can be called."""
        ...

    def problem(self) -> str | None:
        """Why it cannot; None: it can."""
        ...

    async def call(self, step: Step) -> ContainerOutput:
        """Run a step. Raises `ContainerFailed`."""
        ...

    def stream(self, step: Step) -> AbstractAsyncContextManager[Streamed]:
        """As `call`; the reply's bytes as they come."""
        ...

    async def resources(self, model_id: str | None) -> msgspec.Raw | None:
        """What the container says of itself; None: nothing, or it is not up."""
        ...

    async def run(self, *, task_status: "TaskStatus[None]") -> None:
        """Keep it up until cancelled; started once it can be called, or need not be waited for.

        Raises `NotStarted` where it must come up and does not.
        """
        ...


class StartingRunner:
    """The part of a `ContainerRunner` that is the same for all that start their containers.

    A runner builds on it, fills `upkeep`, and calls `start` when it is entered and `tell` when one goes up or down.
    """

    def __init__(self, containers: Sequence[Container]) -> None:
        self._containers = {container.id: container for container in containers}
        self._changed = anyio.Event()
        self.upkeep: Mapping[ContainerId, Upkeep] = {}

    async def start(self, tasks: TaskGroup) -> NotStarted | None:
        """Start all at once, in tasks of the group; the first that must come up and does not ends the attempt."""
        failures: list[NotStarted] = []

        async def start(one: Upkeep) -> None:
            try:
                await tasks.start(one.run)
            except NotStarted as failure:
                failures.append(failure)
                starting.cancel_scope.cancel()

        async with anyio.create_task_group() as starting:
            for one in self.upkeep.values():
                starting.start_soon(start, one)
        return failures[0] if failures else None

    def tell(self) -> None:
        """`running()` may differ."""
        self._changed.set()
        self._changed = anyio.Event()

    @property
    def containers(self) -> Mapping[ContainerId, Container]:
        return self._containers

    def running(self) -> Collection[ContainerId]:
        return [id for id, one in self.upkeep.items() if one.up]

    async def changed(self) -> None:
        await self._changed.wait()

    def problems(self) -> Sequence[str]:
        return [problem for one in self.upkeep.values() if (problem := one.problem())]

    async def run(self, step: Step) -> ContainerOutput:
        return await self.upkeep[step.container].call(step)

    def stream(self, step: Step) -> AbstractAsyncContextManager[Streamed]:
        return self.upkeep[step.container].stream(step)

    async def resources(self, container: ContainerId, model_id: str | None) -> msgspec.Raw | None:
        return await self.upkeep[container].resources(model_id)


def id_problems(containers: Sequence[Container]) -> Iterator[Problem]:
    """Ids that several containers of a runner have."""
    ids = [container.id for container in containers]
    for number, id in enumerate(ids):
        if id in ids[:number]:
            text = f"{id!r} is the id of another container of this runner; name another"
            yield Problem(f"containers[{number}].id", text)


def plain_env(env: Mapping[str, EnvValue]) -> dict[str, str]:
    """With its secrets revealed."""
    return {name: value.reveal() if isinstance(value, Secret) else value for name, value in env.items()}


def env_problems(env: Mapping[str, EnvValue]) -> Iterator[str]:
    """What no system takes as an environment."""
    for name, text in plain_env(env).items():
        if not name or "=" in name or "\0" in name + text:
            yield f"{name!r} is no name of a variable, or its value holds a NUL"
