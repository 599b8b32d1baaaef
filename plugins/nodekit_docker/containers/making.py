"""Making the container of an entry: found running as the node file says, or else made."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from nodekit import Step
from nodekit_docker.config import DockerContainer
from nodekit_docker.containers.isolation import Isolation
from nodekit_docker.containers.names import another_name, is_named
from nodekit_docker.containers.spec import Spec, explained, program_spec, spec
from nodekit_docker.containers.state import CONTAINER, NAMED, NODE, OWNER, SETTINGS, Listed, State
from nodekit_docker.engine.engine import Engine
from nodekit_docker.engine.errors import EngineRefused, NameTaken, NotUp
from nodekit_docker.engine.own_container import Surroundings
from nodekit_docker.images.images import Images

logger = logging.getLogger("nodekit.docker")

_OWNERS = {NODE: "the node", "com.docker.compose.project": "the compose project"}
"""Labels that say whose a container is."""


class Workshop:
    """Makes the containers of a node, and takes them away."""

    def __init__(self, engine: Engine, node: str, folder: Path, around: Surroundings, *, bounded_logs: bool) -> None:
        self.engine = engine
        self.around = around
        self.images = Images(engine)
        self.isolation = Isolation(engine, node, around)
        self.label = f"{NODE}={node}"
        self._node = node
        self._folder = folder
        self._bounded_logs = bounded_logs

    def reached_in(self, container: DockerContainer) -> str | None:
        """The network in which the node reaches it by its address; None: not as a member of one.

        Raises `NotUp` where there should be one.
        """
        return (self.isolation if container.isolated else self.around).shared(container)

    async def taken_or_made(self, container: DockerContainer, restarts: int) -> tuple[State, bool]:
        """The entry's one container, started, and whether it was there. Raises `NotUp`, `NameTaken`, `EngineGone`.

        One that is there is taken over if it runs, is not paused and was made from the same settings and image; all
        others are removed.
        """
        image = await self.images.ready(container)
        shared = self.reached_in(container)
        wanted = spec(container, self._node, self._folder, shared=shared, bounded_logs=self._bounded_logs)
        chosen: State | None = None
        for state in await self._there(container):
            await self._check_owner(state)
            works = state.running and not state.paused
            same = (state.labels.get(SETTINGS), state.labels.get(OWNER), state.image)
            if chosen is None and works and same == (wanted.digest, self.around.owner, image):
                chosen = state
            else:
                await self.engine.remove(state.id)
        if container.isolated:
            await self.isolation.ready(container)
        if chosen is not None:
            logger.info("container %s: %s runs already", container.id, chosen.name)
            return chosen, True
        try:
            return await self._new(container, wanted, restarts), False
        except EngineRefused as error:
            raise NotUp(explained(str(error))) from error

    async def _there(self, container: DockerContainer) -> list[State]:
        return await self._found(f"{CONTAINER}={container.id}")

    async def _found(self, *labels: str) -> list[State]:
        """This node's containers, oldest first."""
        listed = await self.all(*labels)
        inspected = [await self.engine.inspect(one.id) for one in reversed(listed)]
        return [State.of(one) for one in inspected if one is not None]

    async def all(self, *labels: str) -> list[Listed]:
        """This node's containers, in short, running or not.

        Labels alone do not show whose one is: copies of containers (``docker commit``) and their images have them too.
        """
        listed = await self.engine.containers([self.label, *labels])
        return [one for one in listed if is_named(one.name, self._node, one.entry, one.said)]

    async def _new(self, container: DockerContainer, wanted: Spec, restarts: int) -> State:
        body = wanted.body(owner=self.around.owner, restarts=restarts)
        try:
            id = await self.engine.create(wanted.name, body)
        except EngineRefused as error:
            if error.status != 409:
                raise
            id = await self.engine.create(await self._other_name(container, wanted), body)
        await self.engine.start(id)
        if (told := await self.engine.inspect(id)) is None:
            raise NotUp("it was removed while it was being started")
        return State.of(told)

    async def _other_name(self, container: DockerContainer, wanted: Spec) -> str:
        """Whose the name is decides: our own make way, others are left alone. A name that was said has no other."""
        ours = [state for state in await self._there(container) if state.name == wanted.name]
        for state in ours:
            await self.engine.remove(state.id)
        if ours:
            return wanted.name
        if container.name is not None:
            raise NotUp(await self._name_is_taken(container.name))
        other = another_name(wanted.name)
        logger.warning("a container named %s is there that is not this node's; ours is named %s", wanted.name, other)
        return other

    async def _name_is_taken(self, name: str) -> str:
        settings: Mapping[str, Any] = (await self.engine.inspect(name) or {}).get("Config") or {}
        labels: Mapping[str, str] = settings.get("Labels") or {}
        whose = next((f"{what} {labels[label]!r}" for label, what in _OWNERS.items() if label in labels), "somebody")
        return (
            f"a container named {name} is there that belongs to {whose} (image {settings.get('Image')}), not to this "
            f"node: remove it (`docker rm -f {name}`), rename it, or leave `name` out"
        )

    # -- programs ---------------------------------------------------------------------------------

    def program(self, container: DockerContainer, step: Step) -> Spec:
        """How the container of one step is made."""
        return program_spec(container, self._node, self._folder, step)

    async def remove_programs(self, container: DockerContainer, but: Collection[str]) -> None:
        """Remove the containers of an entry, but those of these names: what a run has left that was killed."""
        for state in await self._there(container):
            await self._check_owner(state)
            if state.name not in but:
                await self.engine.remove(state.id)

    # -- all of them ------------------------------------------------------------------------------

    async def remove_orphans(self, containers: Collection[DockerContainer]) -> None:
        """Remove what an earlier run of this node has left and the node file no longer names, or names otherwise.

        Raises `NameTaken` where they belong to a node of the same name that runs elsewhere.
        """
        wanted = {container.id: container for container in containers}
        for state in await self._found():
            await self._check_owner(state)
            if not _fits(state, wanted.get(state.labels[CONTAINER])):
                logger.info("container %s, left by an earlier run, is not in the node file; it is removed", state.name)
                await self.engine.remove(state.id)
        await self.isolation.remove_orphans({container.id for container in containers if container.isolated})

    async def _check_owner(self, state: State) -> None:
        """What a lock on the machine does not show: nodes in containers have a machine of their own."""
        owner = state.labels.get(OWNER, "")
        if owner == self.around.owner:
            return
        if not owner:
            if state.running:
                raise NameTaken(
                    f"{state.name} runs, which a node named {self._node!r} outside of containers has made: give each "
                    "[node] a name of its own, or stop that node; what it has left, `docker rm -f` removes"
                )
            return
        told = await self.engine.inspect(owner)
        if told is not None and State.of(told).running:
            raise NameTaken(
                f"another node named {self._node!r} runs on this engine, in the container {State.of(told).name}: "
                "give each [node] a name of its own"
            )


def _fits(state: State, container: DockerContainer | None) -> bool:
    """Whether it may be an entry's, as far as its name and its network say."""
    if container is None or container.once:
        return False
    isolated = state.name in state.addresses  # the network has the name of its container
    return (state.labels.get(NAMED, ""), isolated) == (container.name or "", container.isolated)
