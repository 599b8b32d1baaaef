"""Whether this node runs in a container itself, and how it then reaches its containers."""

import re
from pathlib import Path

import msgspec

from nodekit_docker.config import DockerContainer
from nodekit_docker.containers.state import NODE, State
from nodekit_docker.engine.engine import Engine
from nodekit_docker.engine.errors import EngineRefused, NotUp

_MOUNTED_FILE = re.compile(r"/containers/([0-9a-f]{64})/(?:hostname|hosts|resolv\.conf)$")
"""Engines keep these files of a container in its folder, and mount them into it."""


def own_container_id(mountinfo: str | None = None) -> str | None:
    """The id that an engine gave to the container that this process runs in; None: it does not, as far as one sees."""
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
    """Where the node runs."""

    owner: str = ""
    """The id of the container that it runs in; empty: it runs on the engine's machine itself."""
    networks: tuple[str, ...] = ()
    """That container's."""

    def shared(self, container: DockerContainer) -> str | None:
        """The network in which the node reaches it by its address; None: the node reaches ports on loopback.

        Raises `NotUp` where there is none.
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
    """Ask this engine whether it runs the container that this process is in; another's is of no matter."""
    id = own_container_id()
    told = None if id is None else await engine.inspect(id)
    if told is None:
        return Surroundings()
    state = State.of(told)
    if state.host_network:
        return Surroundings(state.id)
    networks = state.addresses.keys() - await _isolated(engine)
    return Surroundings(state.id, tuple(sorted(networks, key=lambda name: (name == "bridge", name))))


async def _isolated(engine: Engine) -> set[str]:
    """Networks of isolated containers, in which a run that was killed has left the node."""
    try:
        return {network.name for network in await engine.networks([NODE])}
    except EngineRefused:  # what is in front of an engine may keep networks to itself
        return set()
