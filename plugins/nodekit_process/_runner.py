"""The runner: one supervised process per container."""

import logging
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup

from nodekit import CompositionError, Provider
from nodekit_process._config import ProcessConfig, ProcessContainer, problems
from nodekit_process._fork_server import ForkServer
from nodekit_process._peers import Peers
from nodekit_process._supervised import Supervised, Ways
from nodekit_remote import ContainerHttp, StartingRunner

logger = logging.getLogger("nodekit.process")


class ProcessRunner(StartingRunner):
    """A runner that runs containers as local processes.

    They run in `folder` by default. Relative folders and programs are looked up from there.
    Raise `CompositionError` if a program or a folder is missing. Entering the runner waits for the required containers,
    and raises `NotStarted` if one does not come up; the others come up meanwhile.
    """

    def __init__(self, *containers: ProcessContainer, folder: Path | None = None) -> None:
        folder = (folder or Path()).absolute()
        if found := list(problems(containers, folder)):
            raise CompositionError(found)
        super().__init__(containers, logger)
        self._peers = Peers()
        self._fork_server = ForkServer()
        self._http = ContainerHttp(check_connection=self._peers.check)
        ways = Ways(self._fork_server, self._peers, self._http, self.notify)
        self.upkeep = {
            container.id: Supervised(container, folder / (container.folder or ""), ways) for container in containers
        }
        self._tasks: TaskGroup | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.enter_context(self._peers)
            stack.push_async_callback(self._fork_server.aclose)
            await stack.enter_async_context(self._http)
            tasks = await stack.enter_async_context(anyio.create_task_group())
            failure = await self.start(tasks)
            if failure is None:
                self._tasks, self._stack = tasks, stack.pop_all()
                return self
            tasks.cancel_scope.cancel()
        raise failure

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()  # each task ends its own process, in a shielded scope
        await self._stack.aclose()


provider = Provider(
    ProcessConfig,
    lambda config, file: ProcessRunner(*config.containers, folder=file.folder),
    container=ProcessContainer,
)
