"""A container's settings as the engine's API wants them."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from nodekit import Step
from nodekit_docker.config import NO_NETWORK, DockerContainer, Volume
from nodekit_docker.containers.names import another_name, name_of
from nodekit_docker.containers.state import CONTAINER, NAMED, NODE, OWNER, RESTARTS, SETTINGS, STEP
from nodekit_docker.sizes import size_in_bytes
from nodekit_remote import UNBUFFERED, plain_env

LOG_SIZE, LOG_FILES = "10m", "3"
"""Bounds of log files. Without them, an engine that keeps logs in files lets them grow for ever."""
NO_NAMES = {"Dns": ["0.0.0.0"], "DnsOptions": ["timeout:1", "attempts:1"]}  # noqa: S104 - nobody listens there
"""A name server that does not answer: the container itself. If a container has no name server of its own, older
engines ask the machine's on its behalf. That is a way out of an internal network (CVE-2024-29018)."""


class Spec(msgspec.Struct, frozen=True):
    """The settings from which a container is made.

    - `settings`: The body of the engine's call, without the labels that differ each time the container is made.
    - `digest`: A digest of the settings. A container with the same digest need not be recreated.
    """

    name: str
    settings: Mapping[str, Any]
    digest: str

    def body(self, proof: Mapping[str, str], *, owner: str, restarts: int) -> dict[str, Any]:
        """Return the body of the engine's call.

        `proof` are the labels that prove whose it is. `owner` is the id of the node's own container, or empty.
        """
        labels = {**self.settings["Labels"], SETTINGS: self.digest, OWNER: owner, RESTARTS: str(restarts), **proof}
        return {**self.settings, "Labels": labels}


def spec(
    container: DockerContainer, node: str, volumes: Sequence[Volume], *, shared: str | None, bounded_logs: bool
) -> Spec:
    """Return the spec of a container that is called over HTTP.

    `shared` is the network that a node in a container shares with it. Without one, the container publishes its port on
    loopback, unless it is isolated. `bounded_logs` is True if the engine keeps logs in files, which can be bounded.
    """
    settings = _settings(container, node, volumes)
    settings["ExposedPorts"] = {f"{container.port}/tcp": {}}
    host: dict[str, Any] = settings["HostConfig"]
    if container.isolated:
        host |= {"NetworkMode": network_of(container, node), **NO_NAMES}
    elif joined := shared or container.network:
        host["NetworkMode"] = joined
    if container.host_port is not None or (shared is None and not container.isolated):
        host["PortBindings"] = {
            f"{container.port}/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(container.host_port or "")}]
        }
    if container.name is not None:
        settings["Labels"][NAMED] = container.name
    if bounded_logs:
        host["LogConfig"] = {"Type": "json-file", "Config": {"max-size": LOG_SIZE, "max-file": LOG_FILES}}
    return Spec(container.name or name_of(node, container.id), settings, digest_of(settings))


def program_spec(container: DockerContainer, node: str, volumes: Sequence[Volume], step: Step) -> Spec:
    """Return the spec of the container of one step, whose program is called over its standard streams.

    Its output is not kept on a disk.
    """
    settings = _settings(container, node, volumes)
    settings["Env"] += [f"{name}={text}" for name, text in _env_of(step).items()]
    settings |= {"OpenStdin": True, "StdinOnce": True, "AttachStdin": True, "AttachStdout": True, "AttachStderr": True}
    settings["HostConfig"] |= {"NetworkMode": container.network or NO_NETWORK, "LogConfig": {"Type": "none"}}
    name = another_name(f"{name_of(node, container.id)}-{step.job_id}")
    settings["Labels"] |= {NAMED: name, STEP: step.idempotency_key}
    return Spec(name, settings, digest_of(settings))


def network_of(container: DockerContainer, node: str) -> str:
    """Return the name of an isolated container's network."""
    return container.name or name_of(node, container.id)


def digest_of(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(settings, order="deterministic")).hexdigest()[:16]


def _settings(container: DockerContainer, node: str, volumes: Sequence[Volume]) -> dict[str, Any]:
    """Return the settings that are the same for served containers and programs."""
    settings: dict[str, Any] = {
        "Image": container.image,
        "Env": [f"{name}={text}" for name, text in sorted({**UNBUFFERED, **plain_env(container.env)}.items())],
        "Labels": {**container.labels, NODE: node, CONTAINER: container.id, NAMED: "", STEP: ""},
        "HostConfig": _host_config(container, volumes),
    }
    if container.command:
        settings["Cmd"] = list(container.command)
    if container.user is not None:
        settings["User"] = container.user
    return settings


def _env_of(step: Step) -> Mapping[str, str]:
    """Return the facts about a step that a served container gets beside the data, as environment variables."""
    return {
        "NODEKIT_IDEMPOTENCY_KEY": step.idempotency_key,
        "NODEKIT_SOURCE": str(int(step.input.source)),
        "NODEKIT_DESTINATION": str(int(step.input.destination)),
        "NODEKIT_REQUIRES_PROOF": str(step.input.requires_proof).lower(),
    }


def _host_config(container: DockerContainer, volumes: Sequence[Volume]) -> dict[str, Any]:
    memory = size_in_bytes(container.memory)
    config: dict[str, Any] = {
        "Init": True,  # passes signals on, and reaps processes that the program leaves
        "CapDrop": ["ALL"],
        "CapAdd": [name.removeprefix("CAP_") for name in container.capabilities],
        "SecurityOpt": ["no-new-privileges"],
        "PidsLimit": container.pids,
        "Memory": memory,
        "MemorySwap": memory,
        "ReadonlyRootfs": container.read_only,
        "Tmpfs": {path: f"size={size_in_bytes(size)},nosuid,nodev" for path, size in sorted(container.tmpfs.items())},
        "Mounts": [_mount(volume) for volume in volumes],
        "ExtraHosts": [f"{name}:{address}" for name, address in sorted(container.extra_hosts.items())],
        "DeviceRequests": _devices(container),
        "RestartPolicy": {"Name": "no"},  # the runner restarts it, and knows why
    }
    if container.cpus is not None:
        config["NanoCpus"] = int(container.cpus * 1e9)
    return config


def _mount(volume: Volume) -> dict[str, Any]:
    """Return a mount. It fails if its folder is missing; the older "binds" would create one, owned by root."""
    kind = "bind" if volume.is_bind else "volume"
    return {"Type": kind, "Source": volume.source, "Target": volume.target, "ReadOnly": volume.read_only}


def _devices(container: DockerContainer) -> Sequence[Mapping[str, Any]]:
    match container.gpus:
        case None:
            return []
        case "all":
            which: dict[str, Any] = {"Count": -1}
        case int(count):
            which = {"Count": count}
        case ids:
            which = {"DeviceIDs": list(ids)}
    return [{"Driver": "", "Capabilities": [["gpu"]], "Options": {}, **which}]


_CURES = (
    (r"could not select device driver .*gpu", "the engine has no GPU driver: install the NVIDIA Container Toolkit"),
    (r"bind source path does not exist: (\S+)", "the volume's source {0} does not exist on the engine's machine"),
    (r"network (\S+) not found", "there is no network {0}: docker network create {0}, or leave `network` out"),
    (
        r"exec: \"([^\"]*)\":.*(?:not found|no such file|permission denied)",
        "its program {0!r} cannot be run: it is not in the image, or not executable; see `command`",
    ),
    (
        r"(?:listen tcp4? |Bind for )(127\.0\.0\.1:\d+)(?:: bind: address already in use| failed: port is already)",
        "{0} is in use, by a program or another container: free it, give another `host_port`, or leave that out",
    ),
    (
        r"could not find an available, non-overlapping IPv4 address pool|all predefined address pools",
        "the engine has no addresses left for another network: `docker network prune` removes what nobody uses; more "
        "are given with `default-address-pools` of its daemon.json",
    ),
    (r"unable to find user (\S+?):", "the image knows no user {0}; give `user` as a number"),
    (r"invalid CapAdd: unknown capability: \"?(?:CAP_)?([A-Z_]+)", "there is no capability {0}; see `capabilities`"),
)


def explained(text: str) -> str:
    """Translate the engine's refusal to make or start a container into words for the author of the node file."""
    for pattern, cure in _CURES:
        if found := re.search(pattern, text, re.IGNORECASE | re.DOTALL):
            return cure.format(*found.groups())
    return text.rpartition("caused: ")[2].strip() or text
