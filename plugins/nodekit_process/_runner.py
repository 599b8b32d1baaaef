"""The runner: one supervised process per container."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup

from nodekit import CompositionError, Container, ContainerId, ContainerOutput, NotStarted, Offer, Step
from nodekit_process._config import ProcessConfig, ProcessContainer, problems
from nodekit_process._supervised import Supervised
from nodekit_remote import ContainerHttp


class ProcessRunner:
    """Runs containers as local processes.

    `folder` is where they run unless they say otherwise; relative folders and programs are looked up from it.
    Raises `CompositionError` where a program or a folder is missing; entering it, `NotStarted`. Entering waits for the
    containers that are required; the others come up meanwhile.
    """

    def __init__(self, config: ProcessConfig, *, folder: Path | None = None) -> None:
        folder = (folder or Path()).absolute()
        if found := list(problems(config, folder)):
            raise CompositionError(found)
        self._containers = {container.id: container for container in config.containers}
        self._http = ContainerHttp()
        self._changed = anyio.Event()
        self._supervised = {
            container.id: Supervised(container, folder / (container.folder or ""), self._http, self._tell)
            for container in config.containers
        }
        self._tasks: TaskGroup | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._http)
            tasks = await stack.enter_async_context(anyio.create_task_group())
            failures = await self._start(tasks)
            if not failures:
                self._tasks, self._stack = tasks, stack.pop_all()
                return self
            tasks.cancel_scope.cancel()
        raise failures[0]

    async def _start(self, tasks: TaskGroup) -> list[NotStarted]:
        """Start all at once; the first required one that fails ends the attempt."""
        failures: list[NotStarted] = []

        async def start(supervised: Supervised) -> None:
            try:
                await tasks.start(supervised.run)
            except NotStarted as failure:
                failures.append(failure)
                starting.cancel_scope.cancel()

        async with anyio.create_task_group() as starting:
            for supervised in self._supervised.values():
                starting.start_soon(start, supervised)
        return failures

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()  # each ends its own process, shielded
        await self._stack.aclose()

    @property
    def containers(self) -> Mapping[ContainerId, Container]:
        return self._containers

    def running(self) -> Collection[ContainerId]:
        return [id for id, supervised in self._supervised.items() if supervised.up]

    async def changed(self) -> None:
        await self._changed.wait()

    def problems(self) -> Sequence[str]:
        return [problem for supervised in self._supervised.values() if (problem := supervised.problem())]

    async def run(self, step: Step) -> ContainerOutput:
        return await self._supervised[step.container].call(step)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


offer = Offer(ProcessConfig, lambda config, file: ProcessRunner(config, folder=file.folder), container=ProcessContainer)
