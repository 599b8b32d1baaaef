"""Networks with no way out: one for each isolated container, which only its node can reach.

Such a network is internal: nothing is routed out of it. If the node runs in a container, that container is attached
to the network, and the engine's machine has no address in it. If the node runs on the machine itself, the machine has
an address in the network. The node calls the container from that address, and the container can call it in turn. So
the node accepts no jobs from the addresses of these networks.
"""

import logging
from collections.abc import Collection
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from nodekit_docker.config import DockerContainer
from nodekit_docker.containers.ownership import Ownership
from nodekit_docker.containers.spec import digest_of, explained, network_of
from nodekit_docker.containers.state import CONTAINER, NODE, SETTINGS, Made
from nodekit_docker.engine.engine import Engine
from nodekit_docker.engine.errors import EngineRefused, NotUp
from nodekit_docker.engine.own_container import Surroundings

logger = logging.getLogger("nodekit.docker")

NO_ADDRESS_OF_MACHINE = {"com.docker.network.bridge.inhibit_ipv4": "true"}


class Isolation:
    """The networks of a node's isolated containers."""

    def __init__(self, engine: Engine, ownership: Ownership, around: Surroundings) -> None:
        self._engine = engine
        self._ownership = ownership
        self._node = ownership.node
        self._around = around
        self._subnets: dict[str, list[IPv4Network | IPv6Network]] = {}
        """The addresses of the networks that are there, by the network's id."""

    @property
    def _inside(self) -> bool:
        return bool(self._around.networks)

    def shared(self, container: DockerContainer) -> str | None:
        """Return the network that the node shares with the container; None if the node runs on the engine's machine."""
        return network_of(container, self._node) if self._inside else None

    async def ready(self, container: DockerContainer) -> None:
        """Make the container's network, unless it exists, and attach the node's own container if there is one.

        Raise `NotUp` if that fails.
        """
        settings = self._settings(container)
        chosen: Made | None = None
        for network in await self._found(f"{CONTAINER}={container.id}"):
            if (network.name, network.labels.get(SETTINGS)) == (settings["Name"], settings["Labels"][SETTINGS]):
                chosen = network
            else:
                await self._remove(network)
        try:
            id = chosen.id if chosen else await self._made(container, settings)
            if self._inside:
                await self._engine.attach(self._around.owner, id)
        except EngineRefused as error:
            if error.status == 409:
                raise NotUp(_taken(settings["Name"])) from error
            raise NotUp(explained(str(error))) from error

    async def _made(self, container: DockerContainer, settings: dict[str, Any]) -> str:
        """Make a network and return its id."""
        proof = self._ownership.labels("network", container.id, settings["Name"], await self._engine.time())
        id = await self._engine.make_network({**settings, "Labels": {**settings["Labels"], **proof}})
        await self._found(f"{CONTAINER}={container.id}")  # the engine has chosen its addresses
        return id

    def _settings(self, container: DockerContainer) -> dict[str, Any]:
        """Return the body of the engine's call, without the proof."""
        settings: dict[str, Any] = {
            "Name": network_of(container, self._node),
            "CheckDuplicate": True,
            "Driver": "bridge",
            "Internal": True,
            "EnableIPv6": False,
            "Options": NO_ADDRESS_OF_MACHINE if self._inside else {},
        }
        return {**settings, "Labels": {NODE: self._node, CONTAINER: container.id, SETTINGS: digest_of(settings)}}

    async def remove_orphans(self, entries: Collection[str]) -> None:
        """Remove this node's networks, except those of the entries and those with other containers in them."""
        try:
            found = await self._found()
        except EngineRefused as error:  # a proxy in front of the engine may hide networks
            logger.info("the networks of %s cannot be looked at: %s", self._node, error)
            return
        for network in found:
            if network.entry not in entries:
                await self._remove(network)

    async def _found(self, *labels: str) -> list[Made]:
        found = await self._engine.networks([f"{NODE}={self._node}", *labels])
        for network in found:  # also those of a node whose secret is lost: their containers may still run
            self._subnets[network.id] = [ip_network(subnet, strict=False) for subnet in network.subnets]
        return [one for one in found if self._ownership.owns("network", one)]

    def has(self, address: str | None) -> bool:
        """Return True for an address of an isolated container."""
        if not self._subnets:
            return False
        try:
            parsed = ip_address(address or "")
        except ValueError:  # none, or that of a unix socket
            return False
        parsed = getattr(parsed, "ipv4_mapped", None) or parsed
        return any(parsed in subnet for subnets in self._subnets.values() for subnet in subnets)

    async def _remove(self, network: Made) -> None:
        try:
            if self._inside:
                await self._engine.detach(self._around.owner, network.id)
            await self._engine.remove_network(network.id)
            self._subnets.pop(network.id, None)
        except EngineRefused as error:  # somebody has put another container into it
            logger.warning("network %s is left: %s", network.name, error)


def _taken(name: str) -> str:
    return (
        f"a network named {name} exists that does not belong to this node:  remove it (`docker network rm {name}`), or "
        "give the container another `name`"
    )
