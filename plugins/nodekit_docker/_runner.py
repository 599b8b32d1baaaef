"""The runner: a container of a Docker engine per entry."""

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.abc import TaskGroup

from nodekit import (
    CompositionError,
    Container,
    ContainerId,
    ContainerOutput,
    NodekitError,
    NotStarted,
    Offer,
    Problem,
    Step,
)
from nodekit_docker._config import NAME, DockerConfig, DockerContainer, problems
from nodekit_docker._engine import Engine
from nodekit_docker._errors import EngineGone, EngineRefused
from nodekit_docker._find import find_engine
from nodekit_docker._inside import surroundings
from nodekit_docker._insist import to_its_end
from nodekit_docker._kept import Kept
from nodekit_docker._lock import hold_name
from nodekit_docker._making import Workshop
from nodekit_docker._presence import Presence
from nodekit_remote import ContainerHttp

logger = logging.getLogger("nodekit.docker")

ENGINE_SECONDS = 10.0
"""What leaving allows the engine beyond the time that containers have to end."""


class DockerRunner:
    """Runs containers on a Docker engine.

    `node` is the node's name: its containers are found by it again after a crash, so it is one node's on an engine.
    Relative volumes are looked up from `folder`. Raises `CompositionError` where the settings cannot be; entering it,
    `NotStarted` for a container that does not come up, and other `NodekitError`s where the engine or the name cannot
    be had.
    """

    def __init__(self, config: DockerConfig, *, node: str = "node", folder: Path | None = None) -> None:
        self._folder = (folder or Path()).absolute()
        found = list(problems(config, self._folder))
        if not NAME.fullmatch(node):
            found.append(
                Problem("node", f"expected a name of letters, digits and _.- for its containers, got {node!r}")
            )
        if found:
            raise CompositionError(found)
        self._config = config
        self._node = node
        self._containers = {container.id: container for container in config.containers}
        self._http = ContainerHttp()
        self._changed = anyio.Event()
        self._kept: Mapping[ContainerId, Kept] = {}
        self._presence: Presence | None = None
        self._stack = AsyncExitStack()

    # -- lifespan ---------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if not self._containers:  # needs no engine
            return self
        async with AsyncExitStack() as stack:
            engine = Engine(find_engine(self._config.host))
            stack.callback(engine.close)
            workshop = await self._workshop(engine, stack)
            await stack.enter_async_context(self._http)
            stack.push_async_callback(lambda: to_its_end(self._leave(workshop)))
            tasks = await stack.enter_async_context(anyio.create_task_group())
            failures = await self._start(tasks, workshop)
            if not failures:
                stack.callback(tasks.cancel_scope.cancel)
                self._stack = stack.pop_all()
                return self
            tasks.cancel_scope.cancel()
        raise failures[0]

    async def _workshop(self, engine: Engine, stack: AsyncExitStack) -> Workshop:
        """The engine, asked for the first time; the node's name is held until the stack is closed."""
        await engine.ping()
        info: Mapping[str, Any] = await engine.call(lambda api: dict(api.info()))
        logger.info("Docker engine %s at %s", info.get("ServerVersion"), engine.place.host)
        if lock := hold_name(self._node, str(info.get("ID") or engine.place.host)):
            stack.callback(lock.close)
        bounded_logs = info.get("LoggingDriver") == "json-file"
        around = await surroundings(engine)
        workshop = Workshop(engine, self._node, self._folder, around, bounded_logs=bounded_logs)
        await workshop.remove_orphans(set(self._containers))
        return workshop

    async def _start(self, tasks: TaskGroup, workshop: Workshop) -> list[NodekitError]:
        """Start all at once; the first required one that fails ends the attempt."""
        self._presence = presence = Presence(workshop.engine, workshop.label, self._look)
        self._kept = {
            container.id: Kept(container, workshop, presence, self._http, self._tell)
            for container in self._containers.values()
        }
        failures: list[NodekitError] = []

        async def start(kept: Kept) -> None:
            try:
                await tasks.start(kept.run)
            except NotStarted as failure:
                failures.append(failure)
                starting.cancel_scope.cancel()

        tasks.start_soon(presence.follow)
        async with anyio.create_task_group() as starting:
            for kept in self._kept.values():
                starting.start_soon(start, kept)
        return failures

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _leave(self, workshop: Workshop) -> None:
        """Stop and remove all containers of this node, within a time that an engine cannot prolong."""
        seconds = max(container.stop_seconds for container in self._containers.values())
        try:
            with anyio.fail_after(seconds + ENGINE_SECONDS):
                await self._end_all(workshop)
        except (EngineGone, EngineRefused, TimeoutError) as error:
            why = str(error) or f"the engine took longer than {seconds + ENGINE_SECONDS:g} s"
            logger.warning("containers of %s are left on the engine, for its next start: %s", self._node, why)

    async def _end_all(self, workshop: Workshop) -> None:
        await workshop.engine.threads.idle(ENGINE_SECONDS)  # something may still be being made
        entries = {one.id: one.entry for one in await workshop.all()}
        entries |= {kept.id: id for id, kept in self._kept.items() if kept.id}  # that somebody has renamed, too
        failures: list[EngineGone | EngineRefused] = []

        async def end(id: str, seconds: float) -> None:
            try:
                await workshop.engine.stop(id, seconds)
                await workshop.engine.remove(id)
            except (EngineGone, EngineRefused) as error:
                failures.append(error)

        async with anyio.create_task_group() as tasks:
            for id, entry in entries.items():
                tasks.start_soon(end, id, self._containers[entry].stop_seconds if entry in self._containers else 0.0)
        if failures:
            raise failures[0]

    # -- what the node asks -----------------------------------------------------------------------

    @property
    def containers(self) -> Mapping[ContainerId, Container]:
        return self._containers

    def running(self) -> Collection[ContainerId]:
        return [id for id, kept in self._kept.items() if kept.up]

    async def changed(self) -> None:
        await self._changed.wait()

    def problems(self) -> Sequence[str]:
        return [problem for kept in self._kept.values() if (problem := kept.problem())]

    def nodekit_problems(self) -> Sequence[str]:
        """Of the engine; those of containers are `problems`."""
        return [self._presence.trouble] if self._presence and self._presence.trouble else []

    async def run(self, step: Step) -> ContainerOutput:
        return await self._kept[step.container].call(step)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def _look(self, id: str | None) -> None:
        for kept in self._kept.values():
            if id is None or kept.id == id:
                kept.look()


offer = Offer(
    DockerConfig,
    lambda config, file: DockerRunner(config, node=file.node, folder=file.folder),
    container=DockerContainer,
)
