"""The container that this node itself may run in, and the networks in which it then reaches its containers."""

import re
from pathlib import Path

import msgspec

from nodekit_docker.config import DockerContainer
from nodekit_docker.containers.state import NODE, State
from nodekit_docker.engine.engine import Engine
from nodekit_docker.engine.errors import EngineRefused, NotUp

_MOUNTED_FILE = re.compile(r"/containers/([0-9a-f]{64})/(?:hostname|hosts|resolv\.conf)$")
"""Files that an engine keeps in a container's folder and mounts into the container."""


def own_container_id(mountinfo: str | None = None) -> str | None:
    """Return the id of the container that this process runs in. Return None if it does not seem to run in one."""
    if mountinfo is None:
        try:
            mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None
    for line in mountinfo.splitlines():
        fields = line.split()
        if len(fields) > 4 and fields[4].startswith("/etc/") and (found := _MOUNTED_FILE.search(fields[3])):
            return found[1]
    return None


class Surroundings(msgspec.Struct, frozen=True):
    """The place where the node runs.

    - `owner`: The id of the container that it runs in; empty if it runs on the engine's machine itself.
    - `networks`: The networks of that container.
    """

    owner: str = ""
    networks: tuple[str, ...] = ()

    def shared(self, container: DockerContainer) -> str | None:
        """Return the network in which the node reaches the container; None if it reaches ports on loopback.

        Raise `NotUp` if the node runs in a container that is not in the container's network.
        """
        if not self.networks:
            return None
        if container.network is None:
            return self.networks[0]
        if container.network not in self.networks:
            raise NotUp(
                f"the node runs in a container, which is not in the network {container.network!r}: add it there, "
                f"or use {' or '.join(map(repr, self.networks))}"
            )
        return container.network


async def surroundings(engine: Engine) -> Surroundings:
    """Ask this engine whether it runs the container of this process. A container of another engine does not matter."""
    id = own_container_id()
    inspected = None if id is None else await engine.inspect(id)
    if inspected is None:
        return Surroundings()
    state = State.of(inspected)
    if state.host_network:
        return Surroundings(state.id)
    networks = state.addresses.keys() - await _isolated(engine)
    return Surroundings(state.id, tuple(sorted(networks, key=lambda name: (name == "bridge", name))))


async def _isolated(engine: Engine) -> set[str]:
    """Return the networks of isolated containers, to which a killed run may have left the node attached."""
    try:
        return {network.name for network in await engine.networks([NODE])}
    except EngineRefused:  # a proxy in front of the engine may hide networks
        return set()
