"""The state of a container, read from the engine's answers."""

import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec

from nodekit_docker.engine.errors import EngineRefused

NODE, CONTAINER, NAMED, STEP, SETTINGS, OWNER, RESTARTS, PROOF, STATE = (
    f"nodekit.{name}"
    for name in ("node", "container", "name", "step", "settings", "owner", "restarts", "proof", "state")
)
"""Labels, in this order: the node's name; the id of the entry in the node file; the name, if it is not made of these
two; the step (of a program); the digest of the settings; the id of the container that the node runs in (empty if there
is none); the number of restarts; the proof that the node made it; the file of the secret that the proof needs. Each
container of a node has all of them, if need be empty: otherwise it would inherit those of its image."""

SHORT_ID = 12
KILLED = 128 + 9


class Made(msgspec.Struct, frozen=True):
    """A container or network in the engine's list.

    - `created_at`: Time at which the engine made it, by the engine's clock.
    - `subnets`: The addresses of a network, as in ``172.18.0.0/16``.
    """

    id: str
    name: str
    labels: Mapping[str, str]
    created_at: float
    subnets: tuple[str, ...] = ()

    @property
    def entry(self) -> str:
        """The id of its entry in the node file."""
        return self.labels.get(CONTAINER, "")

    @classmethod
    def container(cls, listed: Mapping[str, Any]) -> "Made":
        names: Sequence[str] = listed.get("Names") or [""]
        return cls(str(listed["Id"]), names[0].lstrip("/"), listed.get("Labels") or {}, _time(listed.get("Created")))

    @classmethod
    def network(cls, listed: Mapping[str, Any]) -> "Made":
        ipam: Mapping[str, Any] = listed.get("IPAM") or {}
        addresses: Sequence[Mapping[str, Any]] = ipam.get("Config") or ()
        subnets = tuple(str(one["Subnet"]) for one in addresses if "Subnet" in one)
        labels: Mapping[str, str] = listed.get("Labels") or {}
        return cls(str(listed["Id"]), str(listed["Name"]), labels, _time(listed.get("Created")), subnets)


class State(msgspec.Struct, frozen=True):
    """The facts that matter about an inspected container.

    - `error`: The engine's error text for a container that could not be run.
    - `image`: The image's id.
    - `addresses`: Addresses by network.
    """

    id: str
    name: str
    running: bool
    paused: bool
    exit_code: int
    out_of_memory: bool
    error: str
    started_at: str
    labels: Mapping[str, str]
    image: str
    ports: Mapping[str, Any]
    addresses: Mapping[str, str]
    host_network: bool

    @classmethod
    def of(cls, inspected: Mapping[str, Any]) -> "State":
        """Read the engine's description. Raise `EngineRefused` if it does not describe a container."""
        try:
            return cls._of(inspected)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EngineRefused(f"the engine describes a container in an unknown way: {error!r}", 500) from error

    @classmethod
    def _of(cls, inspected: Mapping[str, Any]) -> "State":
        state, settings = inspected["State"], inspected["NetworkSettings"]
        networks: Mapping[str, Any] = settings.get("Networks") or {}
        return cls(
            id=inspected["Id"],
            name=inspected["Name"].lstrip("/"),
            running=bool(state["Running"]) and not state.get("Restarting") and not state.get("Dead"),
            paused=bool(state.get("Paused")),
            exit_code=int(state.get("ExitCode") or 0),
            out_of_memory=bool(state.get("OOMKilled")),
            error=str(state.get("Error") or ""),
            started_at=str(state.get("StartedAt") or ""),
            labels=inspected["Config"].get("Labels") or {},
            image=str(inspected.get("Image") or ""),
            ports=settings.get("Ports") or {},
            addresses={name: str(network.get("IPAddress") or "") for name, network in networks.items()},
            host_network=inspected["HostConfig"].get("NetworkMode") == "host",
        )

    @property
    def short_id(self) -> str:
        return self.id[:SHORT_ID]

    @property
    def restarts(self) -> int:
        with suppress(ValueError):
            return int(self.labels.get(RESTARTS, "0"))
        return 0

    def ending(self, memory: str) -> str:
        """Say how it ended, such as ``exited with code 3`` or ``was killed by SIGKILL``."""
        if self.error:
            return f"could not be run: {self.error}"
        if self.out_of_memory and self.exit_code == KILLED:  # the engine also remembers that a child ran out earlier
            return f"ran out of memory and was killed (its limit is {memory}; `memory` raises it)"
        if self.killed_by:
            return f"was killed by {self.killed_by}"
        return f"exited with code {self.exit_code}"

    @property
    def killed_by(self) -> str:
        """The name of the signal that killed it; empty if none did."""
        with suppress(ValueError):  # a shell exits with 128 + the signal; a program killed outright also has 128 + 9
            return signal.Signals(self.exit_code - 128).name
        return ""

    def address(self, port: int, network: str | None) -> str | None:
        """Return ``host:port`` at which it can be called. Return None if there is none (yet).

        `network` is the network in which this node can reach it by its address.
        """
        if network is not None:
            return _at(self.addresses.get(network), port)
        bindings: Sequence[Mapping[str, str]] = self.ports.get(f"{port}/tcp") or ()
        for binding in bindings:
            if binding.get("HostPort"):
                return f"127.0.0.1:{binding['HostPort']}"
        return _at(next(filter(None, self.addresses.values()), None), port)  # an internal network publishes nothing


def _time(told: Any) -> float:
    """Read a time, which is seconds or a date. Return 0 if it is neither, so that nothing is proven by it."""
    with suppress(ValueError):
        return float(told) if isinstance(told, int | float) else datetime.fromisoformat(str(told)).timestamp()
    return 0.0


def _at(address: str | None, port: int) -> str | None:
    return f"{address}:{port}" if address else None
