"""The making of an entry's container: one that already runs as the node file says is taken over."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from nodekit import Step
from nodekit_docker.config import DockerContainer
from nodekit_docker.containers.isolation import Isolation
from nodekit_docker.containers.names import another_name
from nodekit_docker.containers.ownership import Ownership
from nodekit_docker.containers.program import Program
from nodekit_docker.containers.spec import Spec, explained, program_spec, spec
from nodekit_docker.containers.state import CONTAINER, NAMED, NODE, OWNER, PROOF, SETTINGS, Made, State
from nodekit_docker.containers.volumes import Volumes
from nodekit_docker.engine.engine import Engine
from nodekit_docker.engine.errors import EngineRefused, NameTaken, NotUp
from nodekit_docker.engine.own_container import Surroundings, own_container_id
from nodekit_docker.images.images import Images

logger = logging.getLogger("nodekit.docker")

_OWNERS = {NODE: "the node", "com.docker.compose.project": "the compose project"}
"""Labels that name a container's owner."""


class Workshop:
    """The place where the containers of a node are made and removed."""

    def __init__(
        self, engine: Engine, ownership: Ownership, folder: Path, around: Surroundings, *, bounded_logs: bool
    ) -> None:
        self.engine = engine
        self.around = around
        self.images = Images(engine)
        self.isolation = Isolation(engine, ownership, around)
        self.label = f"{NODE}={ownership.node}"
        self._ownership = ownership
        self._node = ownership.node
        self._volumes = Volumes(engine, folder, local=own_container_id() is None)
        self._bounded_logs = bounded_logs

    def reached_in(self, container: DockerContainer) -> str | None:
        """Return the network in which the node reaches the container by its address; None if they share none.

        Raise `NotUp` if they should share one and do not.
        """
        return (self.isolation if container.isolated else self.around).shared(container)

    async def taken_or_made(self, container: DockerContainer, restarts: int) -> tuple[State, bool]:
        """Return the entry's container, started, and True if it was taken over.

        A container is taken over if it runs, is not paused and was made from the same settings and image. All others
        are removed. Raises `NotUp`, `NameTaken` and `EngineGone`.
        """
        image = await self.images.ready(container)
        shared = self.reached_in(container)
        volumes = await self._volumes.ready(container)
        wanted = spec(container, self._node, volumes, shared=shared, bounded_logs=self._bounded_logs)
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
            logger.info("container %r: %s runs already", container.id, chosen.name)
            return chosen, True
        try:
            return await self._new(container, wanted, restarts), False
        except EngineRefused as error:
            raise NotUp(explained(str(error))) from error

    async def _there(self, container: DockerContainer) -> list[State]:
        return await self._found(f"{CONTAINER}={container.id}")

    async def _found(self, *labels: str) -> list[State]:
        """Inspect this node's containers, oldest first."""
        listed = await self.all(*labels)
        inspected = [await self.engine.inspect(one.id) for one in reversed(listed)]
        return [State.of(one) for one in inspected if one is not None]

    async def all(self, *labels: str) -> list[Made]:
        """List the containers that this node has made, running or not."""
        listed = await self.engine.containers([self.label, *labels])
        return [one for one in listed if self._ownership.owns("container", one)]

    async def _new(self, container: DockerContainer, wanted: Spec, restarts: int) -> State:
        try:
            id = await self._created(container, wanted, wanted.name, restarts)
        except EngineRefused as error:
            if error.status != 409:
                raise
            id = await self._created(container, wanted, await self._other_name(container, wanted), restarts)
        await self.engine.start(id)
        if (inspected := await self.engine.inspect(id)) is None:
            raise NotUp("it was removed while it was being started")
        return State.of(inspected)

    async def _created(self, container: DockerContainer, wanted: Spec, name: str, restarts: int) -> str:
        proof = self._ownership.labels("container", container.id, name, await self.engine.time())
        return await self.engine.create(name, wanted.body(proof, owner=self.around.owner, restarts=restarts))

    async def _other_name(self, container: DockerContainer, wanted: Spec) -> str:
        """Free the name if containers of this node have it, or choose another name if it is somebody else's.

        Raise `NotUp` if somebody else has a name that the node file asks for.
        """
        ours = [state for state in await self._there(container) if state.name == wanted.name]
        for state in ours:
            await self.engine.remove(state.id)
        if ours:
            return wanted.name
        if container.name is not None:
            raise NotUp(await self._name_is_taken(container.name))
        other = another_name(wanted.name)
        logger.warning(
            "a container named %s exists that does not belong to this node; ours is named %s", wanted.name, other
        )
        return other

    async def _name_is_taken(self, name: str) -> str:
        settings: Mapping[str, Any] = (await self.engine.inspect(name) or {}).get("Config") or {}
        labels: Mapping[str, str] = settings.get("Labels") or {}
        whose = next((f"{what} {labels[label]!r}" for label, what in _OWNERS.items() if label in labels), "somebody")
        if labels.get(NODE) == self._node and PROOF in labels:
            whose = "an earlier node of this name, or to one whose secret is lost"
        return (
            f"a container named {name} exists that belongs to {whose} (image {settings.get('Image')}), not to this "
            f"node: remove it (`docker rm -f {name}`), rename it, or leave `name` out"
        )

    # -- programs ---------------------------------------------------------------------------------

    async def program(self, container: DockerContainer, step: Step) -> Program:
        """Return the container of one step, which is not made yet. Raise `NotUp`."""
        wanted = program_spec(container, self._node, await self._volumes.ready(container), step)
        proof = self._ownership.labels("container", container.id, wanted.name, await self.engine.time())
        return Program(self.engine, wanted.name, wanted.body(proof, owner=self.around.owner, restarts=0))

    async def remove_programs(self, container: DockerContainer, but: Collection[str]) -> None:
        """Remove the containers of an entry that a killed run has left, except those of the names in `but`."""
        for state in await self._there(container):
            await self._check_owner(state)
            if state.name not in but:
                await self.engine.remove(state.id)

    # -- all of them ------------------------------------------------------------------------------

    async def remove_orphans(self, containers: Collection[DockerContainer]) -> None:
        """Remove containers of an earlier run that no longer fit the node file.

        Raise `NameTaken` if they belong to a node of the same name that runs elsewhere.
        """
        wanted = {container.id: container for container in containers}
        for state in await self._found():
            await self._check_owner(state)
            if not _fits(state, wanted.get(state.labels[CONTAINER])):
                logger.info("container %r, left by an earlier run, is not in the node file; it is removed", state.name)
                await self.engine.remove(state.id)
        await self.isolation.remove_orphans({container.id for container in containers if container.isolated})

    async def _check_owner(self, state: State) -> None:
        """Raise `NameTaken` if the container belongs to another node of this name that runs.

        The lock of `name_lock` does not see nodes in other containers, because each container has its own namespace.
        """
        owner = state.labels.get(OWNER, "")
        if owner == self.around.owner:
            return
        if not owner:
            if state.running:
                raise NameTaken(
                    f"{state.name} runs, and a node named {self._node!r} outside of containers made it: give each "
                    "[node] a name of its own, or stop that node; `docker rm -f` removes what it has left"
                )
            return
        inspected = await self.engine.inspect(owner)
        if inspected is not None and State.of(inspected).running:
            raise NameTaken(
                f"another node named {self._node!r} runs on this engine, in the container {State.of(inspected).name}: "
                "give each [node] a name of its own"
            )


def _fits(state: State, container: DockerContainer | None) -> bool:
    """Return True if the name and the network of a container fit the entry."""
    if container is None or container.once:
        return False
    isolated = state.name in state.addresses  # the network has the name of its container
    return (state.labels.get(NAMED, ""), isolated) == (container.name or "", container.isolated)
