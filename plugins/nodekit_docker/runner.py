"""The runner `docker`: one container of a Docker engine for each entry."""

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.abc import TaskGroup

from nodekit import CompositionError, ContainerId, JobRequest, NodekitError, Problem, Provider, Refusal, time_limit
from nodekit_docker.config import NAME, DockerConfig, DockerContainer, problems
from nodekit_docker.containers.isolation import Isolation
from nodekit_docker.containers.making import Workshop
from nodekit_docker.containers.one_per_step import Once, bounded
from nodekit_docker.containers.ownership import Ownership
from nodekit_docker.containers.state_folder import FOLDER, StateFolder
from nodekit_docker.containers.supervised import Kept
from nodekit_docker.containers.volumes import NODE_FILE, SOCKET, STATE, dangers, nested
from nodekit_docker.engine.engine import Engine
from nodekit_docker.engine.errors import EngineGone, EngineRefused
from nodekit_docker.engine.find import find_engine
from nodekit_docker.engine.own_container import surroundings
from nodekit_docker.engine.presence import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Presence
from nodekit_docker.engine.uncancelled import to_its_end
from nodekit_remote import ContainerHttp, StartingRunner

logger = logging.getLogger("nodekit.docker")

ENGINE_SECONDS = 10.0
"""Seconds that leaving allows the engine, in addition to the time that containers have to end."""


class DockerRunner(StartingRunner):
    """A runner of containers on a Docker engine.

    `node` is the node's name. The runner finds its containers again by that name after a crash, so only one node on an
    engine may have it. Relative volumes start at `folder`. `host` is the engine's URL; None: the engine that Docker's
    own tools find. `state` is the folder of the secret that proves which containers are the node's; None: ``.nodekit``
    in `folder`.

    The constructor raises `CompositionError` if the settings are not valid. Entering raises `NotStarted` if a required
    container does not come up, and another `NodekitError` if the engine does not answer or the name is taken. If no
    container is required, entering waits for nothing, not even for an engine.
    """

    def __init__(
        self,
        *containers: DockerContainer,
        host: str | None = None,
        node: str = "node",
        folder: Path | None = None,
        state: Path | None = None,
    ) -> None:
        self._folder = (folder or Path()).absolute()
        self._state = StateFolder(self._folder / (state or FOLDER), node)
        self._config = DockerConfig(containers=containers, host=host)
        found = list(problems(self._config, self._folder))
        if not NAME.fullmatch(node):
            text = f"expected a name of letters, digits and _.- for its containers, got {node!r}"
            found.append(Problem("node", text))
        placed = nested(containers, self._folder)
        found += [Problem(f"containers[{number}].volumes[{index}]", text) for number, index, text in placed]
        if found:
            raise CompositionError(found)
        super().__init__([bounded(container) for container in containers], logger)
        self._node = node
        self._http = ContainerHttp()
        self._kept: Mapping[ContainerId, Kept | Once] = {}
        self._presence: Presence | None = None
        self._isolation: Isolation | None = None
        self._waits = ""
        """The reason why nothing could be started yet."""
        self._stack = AsyncExitStack()

    # -- lifespan ---------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if not self._config.containers:  # no engine is needed
            return self
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._http)
            engine = await stack.enter_async_context(AsyncExitStack())  # `_begin` may fill it later; left on exit
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            failure: NodekitError | None = None
            if any(container.required for container in self._config.containers):
                failure = await self._begin(engine, tasks)
            else:
                tasks.start_soon(self._begin_when_it_can, engine, tasks)
            if failure is None:
                self._stack = stack.pop_all()
                return self
        raise failure

    async def _begin(self, stack: AsyncExitStack, tasks: TaskGroup) -> NodekitError | None:
        """Find the engine and start all containers. Return the error that prevented it, or None."""
        try:
            async with AsyncExitStack() as opened:
                workshop = await self._workshop(opened)
                opened.push_async_callback(lambda: to_its_end(self._leave(workshop)))
                stack.push_async_exit(opened.pop_all())
        except NodekitError as error:
            return error
        self._presence = Presence(workshop.engine, workshop.label, self._look)
        self._isolation = workshop.isolation
        self.upkeep = self._kept = {
            container.id: self._upkeep(container, workshop, self._presence) for container in self._config.containers
        }
        tasks.start_soon(self._presence.follow)
        return await self.start(tasks)

    def _upkeep(self, container: DockerContainer, workshop: Workshop, presence: Presence) -> Kept | Once:
        if container.once:
            return Once(container, workshop, presence, self.notify)
        return Kept(container, workshop, presence, self._http, self.notify)

    async def _begin_when_it_can(self, stack: AsyncExitStack, tasks: TaskGroup) -> None:
        pause = FIRST_PAUSE_SECONDS
        while failure := await self._begin(stack, tasks):
            if str(failure) != self._waits:
                logger.warning("no container of Docker is started: %s", failure)
            self._waits = str(failure)
            await anyio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        self._waits = ""

    async def _workshop(self, stack: AsyncExitStack) -> Workshop:
        """Connect to the engine and take the node's name; both are held until the stack is closed."""
        engine = Engine(find_engine(self._config.host))
        stack.callback(engine.close)
        await engine.ping()
        info: Mapping[str, Any] = await engine.call(lambda api: dict(api.info()))
        logger.info("Docker engine %s at %s", info.get("ServerVersion"), engine.place.host)
        self._warn(engine)
        stack.callback(os.close, self._state.hold_name(str(info.get("ID") or engine.place.host)))
        ownership = Ownership(self._state.secret(), self._node, self._state.secret_path)
        bounded_logs = info.get("LoggingDriver") == "json-file"
        around = await surroundings(engine)
        workshop = Workshop(engine, ownership, self._folder, around, bounded_logs=bounded_logs)
        await workshop.remove_orphans(self._config.containers)
        return workshop

    def _warn(self, engine: Engine) -> None:
        private: dict[str, Path] = {}
        if engine.place.host.startswith("unix://"):
            private[SOCKET] = Path(engine.place.host.removeprefix("unix://"))
        private |= {STATE: self._state.folder, NODE_FILE: self._folder}
        for text in dangers(self._config.containers, self._folder, private):
            logger.warning("%s", text)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _leave(self, workshop: Workshop) -> None:
        """Stop and remove all containers of this node. The time limit also holds for an engine that hangs."""
        seconds = max(container.stop_seconds for container in self._config.containers)
        try:
            with time_limit(seconds + ENGINE_SECONDS):
                await self._end_all(workshop)
                return
            why = f"the engine took longer than {seconds + ENGINE_SECONDS:g} s"
        except (EngineGone, EngineRefused) as error:
            why = str(error)
        logger.warning("containers of %s are left on the engine, for its next start: %s", self._node, why)

    async def _end_all(self, workshop: Workshop) -> None:
        await workshop.engine.threads.idle(ENGINE_SECONDS)  # a container may still be in the making
        seconds = {one.id: 0.0 if one.once else one.stop_seconds for one in self._config.containers}
        entries = {one.id: one.entry for one in await workshop.all()}
        entries |= {kept.id: id for id, kept in self._kept.items() if kept.id}  # also those that somebody has renamed
        failures: list[EngineGone | EngineRefused] = []

        async def end(id: str, seconds: float) -> None:
            try:
                await workshop.engine.stop(id, seconds)
                await workshop.engine.remove(id)
            except (EngineGone, EngineRefused) as error:
                failures.append(error)

        async with anyio.create_task_group() as tasks:
            for id, entry in entries.items():
                tasks.start_soon(end, id, seconds.get(entry, 0.0))
        if failures:
            raise failures[0]
        await workshop.isolation.remove_orphans(())

    # -- what the node asks -----------------------------------------------------------------------

    async def nodekit_admit(self, request: JobRequest) -> None:
        """Refuse jobs of isolated containers, which can reach the node at an address of their network."""
        if self._isolation is not None and self._isolation.has(request.address):
            raise Refusal("A container in an isolated network submits no jobs", address=request.address or "")

    def nodekit_problems(self) -> Sequence[str]:
        """Return the engine's problem, if there is one. `problems` has those of containers."""
        trouble = self._presence.trouble if self._presence else self._waits
        return [trouble] if trouble else []

    def _look(self, id: str | None) -> None:
        for kept in self._kept.values():
            if id is None or kept.id == id:
                kept.look()


provider = Provider(
    DockerConfig,
    lambda config, file: DockerRunner(
        *config.containers, host=config.host, node=file.node, folder=file.folder, state=config.state
    ),
    container=DockerContainer,
)
