"""How a container is, out of what the engine says about it."""

import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from nodekit_docker.engine.errors import EngineRefused

NODE, CONTAINER, NAMED, STEP, SETTINGS, OWNER, RESTARTS = (
    f"nodekit.{name}" for name in ("node", "container", "name", "step", "settings", "owner", "restarts")
)
"""Labels: whose it is, which entry of the node file it is for, its name where that is not made of these two, the step
that it is for (of a program), a digest of how it was made, which container its node runs in (empty: none), and how
often it had to be started again."""

SHORT_ID = 12
KILLED = 128 + 9


class Listed(msgspec.Struct, frozen=True):
    """What a list of containers says of one."""

    id: str
    name: str
    entry: str
    """The id in the node file of the container that it is for."""
    said: str = ""
    """The name that it was made with; empty: one made of the node's name and its entry."""

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Listed":
        names: Sequence[str] = told.get("Names") or [""]
        labels: Mapping[str, str] = told.get("Labels") or {}
        return cls(str(told["Id"]), names[0].lstrip("/"), labels.get(CONTAINER, ""), labels.get(NAMED, ""))


class Network(msgspec.Struct, frozen=True):
    """What a list of networks says of one."""

    id: str
    name: str
    labels: Mapping[str, str]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Network":
        return cls(str(told["Id"]), str(told["Name"]), told.get("Labels") or {})


class State(msgspec.Struct, frozen=True):
    """What matters of an inspected container."""

    id: str
    name: str
    running: bool
    paused: bool
    exit_code: int
    out_of_memory: bool
    error: str
    """The engine's own, of a container that could not be run."""
    started_at: str
    labels: Mapping[str, str]
    image: str
    """The image's id."""
    ports: Mapping[str, Any]
    addresses: Mapping[str, str]
    """By network."""
    host_network: bool

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "State":
        """Raises `EngineRefused` where it is not the description of a container."""
        try:
            return cls._of(told)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EngineRefused(f"the engine describes a container as no engine does: {error!r}", 500) from error

    @classmethod
    def _of(cls, told: Mapping[str, Any]) -> "State":
        state, settings = told["State"], told["NetworkSettings"]
        networks: Mapping[str, Any] = settings.get("Networks") or {}
        return cls(
            id=told["Id"],
            name=told["Name"].lstrip("/"),
            running=bool(state["Running"]) and not state.get("Restarting") and not state.get("Dead"),
            paused=bool(state.get("Paused")),
            exit_code=int(state.get("ExitCode") or 0),
            out_of_memory=bool(state.get("OOMKilled")),
            error=str(state.get("Error") or ""),
            started_at=str(state.get("StartedAt") or ""),
            labels=told["Config"].get("Labels") or {},
            image=str(told.get("Image") or ""),
            ports=settings.get("Ports") or {},
            addresses={name: str(network.get("IPAddress") or "") for name, network in networks.items()},
            host_network=told["HostConfig"].get("NetworkMode") == "host",
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
        """How it ended: ``exited with code 3``, ``was killed by SIGKILL``."""
        if self.error:
            return f"could not be run: {self.error}"
        if self.out_of_memory and self.exit_code == KILLED:  # the engine remembers an earlier one of a child, too
            return f"ran out of memory and was killed (its limit is {memory}; `memory` raises it)"
        if self.killed_by:
            return f"was killed by {self.killed_by}"
        return f"exited with code {self.exit_code}"

    @property
    def killed_by(self) -> str:
        """The name of a signal; empty: none has killed it."""
        with suppress(ValueError):  # as a shell counts; 128 + 9 is also what a program killed outright exits with
            return signal.Signals(self.exit_code - 128).name
        return ""

    def address(self, port: int, network: str | None) -> str | None:
        """``host:port`` at which it can be called; None: there is none (yet).

        `network`: the one in which this node can reach it by its address.
        """
        if network is not None:
            return _at(self.addresses.get(network), port)
        bindings: Sequence[Mapping[str, str]] = self.ports.get(f"{port}/tcp") or ()
        for binding in bindings:
            if binding.get("HostPort"):
                return f"127.0.0.1:{binding['HostPort']}"
        return _at(next(filter(None, self.addresses.values()), None), port)  # an internal network publishes nothing


def _at(address: str | None, port: int) -> str | None:
    return f"{address}:{port}" if address else None
