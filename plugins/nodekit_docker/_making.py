"""Making the container of an entry: found running as the node file says, or else made."""

import logging
import secrets
from pathlib import Path

from nodekit_docker._config import DockerContainer
from nodekit_docker._engine import Engine
from nodekit_docker._errors import EngineRefused, NotUp
from nodekit_docker._images import Images
from nodekit_docker._inside import Surroundings
from nodekit_docker._spec import Spec, explained, spec
from nodekit_docker._state import CONTAINER, NODE, OWNER, SETTINGS, State

logger = logging.getLogger("nodekit.docker")


class Workshop:
    """Makes the containers of a node, and takes them away."""

    def __init__(self, engine: Engine, node: str, folder: Path, around: Surroundings, *, bounded_logs: bool) -> None:
        self.engine = engine
        self.around = around
        self.label = f"{NODE}={node}"
        self._node = node
        self._folder = folder
        self._images = Images(engine)
        self._bounded_logs = bounded_logs

    async def running(self, container: DockerContainer, restarts: int) -> State:
        """The entry's one container, started. Raises `NotUp`, `EngineGone`.

        One that is there is taken if it runs, is not paused and was made from the same settings and image; all others
        are removed.
        """
        image = await self._images.ready(container)
        made = spec(
            container,
            self._node,
            self._folder,
            shared=self.around.shared(container),
            bounded_logs=self._bounded_logs,
        )
        chosen: State | None = None
        for state in await self._there(container):
            works = state.running and not state.paused
            same = (state.labels.get(SETTINGS), state.labels.get(OWNER), state.image)
            if chosen is None and works and same == (made.digest, self.around.owner, image):
                chosen = state
            else:
                await self.engine.remove(state.id)
        if chosen is not None:
            logger.info("container %s: %s runs already", container.id, chosen.name)
            return chosen
        try:
            return await self._new(container, made, restarts)
        except EngineRefused as error:
            raise NotUp(explained(str(error))) from error

    async def _there(self, container: DockerContainer) -> list[State]:
        return await self._found(f"{CONTAINER}={container.id}")

    async def _found(self, *labels: str) -> list[State]:
        """This node's containers, whichever way they came about, oldest first."""
        told = await self.engine.containers([self.label, *labels])
        inspected = [await self.engine.inspect(one["Id"]) for one in reversed(told)]
        return [State.of(one) for one in inspected if one is not None]

    async def _new(self, container: DockerContainer, made: Spec, restarts: int) -> State:
        body = made.body(owner=self.around.owner, restarts=restarts)
        try:
            id = await self.engine.create(made.name, body)
        except EngineRefused as error:
            if error.status != 409:
                raise
            id = await self.engine.create(await self._other_name(container, made), body)
        await self.engine.start(id)
        if (told := await self.engine.inspect(id)) is None:
            raise NotUp("it was removed while it was being started")
        return State.of(told)

    async def _other_name(self, container: DockerContainer, made: Spec) -> str:
        """Whose the name is decides: our own make way, others are left alone."""
        ours = [state for state in await self._there(container) if state.name == made.name]
        for state in ours:
            await self.engine.remove(state.id)
        if ours:
            return made.name
        other = f"{made.name}-{secrets.token_hex(3)}"
        logger.warning("a container named %s is there that is not this node's; ours is named %s", made.name, other)
        return other

    # -- all of them ------------------------------------------------------------------------------

    async def remove_orphans(self, entries: set[str]) -> None:
        """Remove what an earlier run of this node has left and the node file no longer names.

        Raises `NotUp` where they belong to a node of the same name that runs in another container.
        """
        for state in await self._found():
            await self._check_owner(state)
            if state.labels.get(CONTAINER) not in entries:
                logger.info("container %s is not in the node file any more; it is removed", state.name)
                await self.engine.remove(state.id)

    async def _check_owner(self, state: State) -> None:
        owner = state.labels.get(OWNER)
        if not owner or owner == self.around.owner:
            return
        told = await self.engine.inspect(owner)
        if told is not None and State.of(told).running:
            raise NotUp(
                f"another node named {self._node!r} runs on this engine, in the container {State.of(told).name}: "
                "give each [node] a name of its own"
            )

    async def ids(self) -> list[str]:
        """Of all that are there, running or not."""
        return [one["Id"] for one in await self.engine.containers([self.label])]
