"""The base of runners that start their containers themselves."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import anyio
import msgspec
from anyio.abc import TaskGroup, TaskStatus

from nodekit import Container, ContainerId, ContainerOutput, EnvValue, NotStarted, Problem, Secret, Step
from nodekit_remote._http import Streamed

FAIR_SECONDS = 10.0
"""Time that containers have to fail, too, after the first one has failed to start, so that one failure names all."""


class Upkeep(Protocol):
    """One container, which is kept up as long as `run` runs."""

    @property
    def up(self) -> bool:
        """True while the container can be called."""
        ...

    @property
    def instance(self) -> str:
        """Name of the instance that a call would reach now. Empty if it is not known."""
        ...

    def problem(self) -> str | None:
        """Return why the container cannot be called. Return None if it can."""
        ...

    def waits_for(self) -> str:
        """Return what its start waits for right now, for the log and for `NotStarted`."""
        ...

    async def call(self, step: Step) -> ContainerOutput:
        """Run a step. Raise `ContainerFailed`."""
        ...

    def stream(self, step: Step) -> AbstractAsyncContextManager[Streamed]:
        """Run a step like `call`, and yield the reply's bytes as they come."""
        ...

    async def resources(self, model_id: str | None) -> msgspec.Raw | None:
        """Return the container's description of its resources. Return None if there is none, or it is not up."""
        ...

    async def run(self, *, task_status: "TaskStatus[None]") -> None:
        """Keep the container up until cancelled. Report `started` once it can be called or need not be waited for.

        Raise `NotStarted` if it must come up and does not.
        """
        ...


class StartingRunner:
    """The common part of each `ContainerRunner` that starts its containers.

    A runner derives from it, fills `upkeep`, calls `start` when it is entered, and calls `notify` when a container goes
    up or down.
    """

    def __init__(self, containers: Sequence[Container], logger: logging.Logger) -> None:
        self._logger = logger
        self._containers = {container.id: container for container in containers}
        self._changed = anyio.Event()
        self.upkeep: Mapping[ContainerId, Upkeep] = {}

    async def start(self, tasks: TaskGroup) -> NotStarted | None:
        """Start all containers at once, in tasks of the group.

        If one that must come up does not, the others have `FAIR_SECONDS` to come up or to fail as well. Then the
        failure is returned, with those of the others, and of those that are still not up. Otherwise return None.
        """
        failures: list[NotStarted] = []
        starting: dict[ContainerId, Upkeep] = {}
        failed = anyio.Event()

        async def start(id: ContainerId, one: Upkeep) -> None:
            starting[id] = one
            try:
                await tasks.start(one.run)
            except NotStarted as failure:
                failures.append(failure)
                failed.set()
            del starting[id]

        async def start_all() -> None:
            async with anyio.create_task_group() as all_starts:
                for id, one in self.upkeep.items():
                    all_starts.start_soon(start, id, one)
            ending.cancel_scope.cancel()

        async with anyio.create_task_group() as ending:
            ending.start_soon(start_all)
            await failed.wait()
            for id in starting.keys() - {failures[0].container}:  # the failures are told together, and once
                text = "container %r has failed to start; waiting at most %g s for container %r"
                self._logger.info(text, failures[0].container, FAIR_SECONDS, id)
            await anyio.sleep(FAIR_SECONDS)
            text = f"it was not up {FAIR_SECONDS:g} s after another one had failed, and still waited for "
            failures += [NotStarted(id, text + one.waits_for()) for id, one in starting.items()]
            ending.cancel_scope.cancel()
        return failures[0].beside(failures[1:]) if len(failures) > 1 else next(iter(failures), None)

    def notify(self) -> None:
        """Announce that `running()` may have changed."""
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

    def instance(self, container: ContainerId) -> str:
        return self.upkeep[container].instance

    async def resources(self, container: ContainerId, model_id: str | None) -> msgspec.Raw | None:
        return await self.upkeep[container].resources(model_id)


def id_problems(containers: Sequence[Container]) -> Iterator[Problem]:
    """Yield a problem for each id that an earlier container of the runner has already."""
    seen: set[str] = set()
    for number, container in enumerate(containers):
        if (id := container.id) in seen:
            text = f"{id!r} is the id of another container of this runner; name another"
            yield Problem(f"containers[{number}].id", text)
        seen.add(id)


UNBUFFERED = {"PYTHONUNBUFFERED": "1"}
"""Environment that containers get unless theirs says otherwise. Python keeps what a program prints to a pipe in a
buffer; if the program is killed, the lines that would say why are lost with it."""


def plain_env(env: Mapping[str, EnvValue]) -> dict[str, str]:
    """Return the environment with its secrets revealed."""
    return {name: value.reveal() if isinstance(value, Secret) else value for name, value in env.items()}


def env_problems(env: Mapping[str, EnvValue]) -> Iterator[str]:
    """Yield a problem for each variable that no system accepts in an environment."""
    for name, text in plain_env(env).items():
        if not name or "=" in name or "\0" in name + text:
            yield f"{name!r} is no name of a variable, or its value holds a NUL"
