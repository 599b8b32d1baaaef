"""What a node file can say about Docker containers, and what is wrong with it before an engine is asked."""

import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Annotated, Literal, TypeAlias

import msgspec

from nodekit import EnvValue, Problem, Secret
from nodekit_docker._sizes import SIZE, size_in_bytes
from nodekit_remote import StartedContainer, env_problems, id_problems

Gpus: TypeAlias = Literal["all"] | Annotated[int, msgspec.Meta(ge=1)] | tuple[str, ...]
"""All of them, some number of them, or these (an index or a UUID, as the driver names them)."""

OWN_LABELS = "nodekit."
"""Labels that begin so are the runner's."""

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_CAPABILITY = re.compile(r"[A-Z][A-Z_]+")
_NO_NETWORKS = {
    "none": "a container without network cannot be called",
    "host": "a container on the machine's own network listens on all of its addresses",
    "container": "a container on another's network publishes no port of its own",
}
_NO_ENV: Mapping[str, EnvValue] = MappingProxyType({})
_NO_TEXTS: Mapping[str, str] = MappingProxyType({})


class Credentials(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who asks a registry for an image."""

    username: str
    password: Secret


class DockerContainer(StartedContainer, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A container that a Docker engine runs. Unless said it may do little: see the defaults."""

    image: Annotated[str, msgspec.Meta(min_length=1)]  # pyright: ignore[reportGeneralTypeIssues] - no default here
    """``name:tag`` or ``name@sha256:…``; without either, the tag ``latest``."""
    command: tuple[str, ...] = ()
    """Arguments in place of the image's own; no shell."""
    env: Mapping[str, EnvValue] = _NO_ENV
    """More of its environment. Who may use the engine can read it, secrets included."""
    volumes: tuple[str, ...] = ()
    """``source:/target[:ro]``: a folder or file (relative ones, with a dot in front, to the node file's folder) or a
    volume's name."""
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 3000
    """Where its program listens, inside."""
    gpus: Gpus | None = None
    pull: Literal["always", "missing", "never"] = "missing"
    """When its image is asked for at the registry."""
    registry: Credentials | None = None
    """For its image; unless said, what ``docker login`` has kept."""
    network: str | None = None
    """The name of a network that is there; the engine's default bridge unless said."""
    extra_hosts: Mapping[str, str] = _NO_TEXTS
    """Names → addresses, or ``host-gateway``."""
    labels: Mapping[str, str] = _NO_TEXTS
    memory: str = "2GiB"
    """The most it may use, swap included; past it, its program is killed."""
    cpus: Annotated[float, msgspec.Meta(ge=0.01, le=1e6)] | None = None
    pids: Annotated[int, msgspec.Meta(ge=1)] = 512
    """How many processes and threads it may have."""
    user: str | None = None
    """``uid[:gid]`` or a name; the image's own unless said."""
    read_only: bool = False
    """Whether its root file system is."""
    tmpfs: Mapping[str, str] = _NO_TEXTS
    """Folders in memory, which count towards `memory`, with their sizes."""
    capabilities: tuple[str, ...] = ()
    """Linux capabilities that it has; all others are dropped."""
    startup_seconds: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    """How long it may take until it answers."""

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise ValueError(problem)

    def _problems(self) -> Iterator[str]:
        """Each begins with its key."""
        if not NAME.fullmatch(self.id):
            yield f"id: expected letters, digits and _.-, beginning with a letter or digit, got {self.id!r}"
        for key, size in (("memory", self.memory), *((f"tmpfs: {path}", size) for path, size in self.tmpfs.items())):
            if size_in_bytes(size) is None:
                yield f"{key}: expected {SIZE}, got {size!r}"
        for path in self.tmpfs:
            if not PurePosixPath(path).is_absolute():
                yield f"tmpfs: expected absolute paths inside the container, got {path!r}"
        for name in self.capabilities:
            if not _CAPABILITY.fullmatch(name):
                yield f"capabilities: expected names such as NET_BIND_SERVICE, got {name!r}"
        for name, address in self.extra_hosts.items():
            if address != "host-gateway" and not _is_address(address):
                yield f"extra_hosts: expected an address or host-gateway for {name}, got {address!r}"
        for label in self.labels:
            if label.startswith(OWN_LABELS):
                yield f"labels: those that begin with {OWN_LABELS} are the runner's, got {label!r}"
        if self.network is not None and self.network.partition(":")[0] in _NO_NETWORKS:
            yield f"network: {_NO_NETWORKS[self.network.partition(':')[0]]}; name another, or leave it out"


class DockerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The runner's settings."""

    containers: tuple[DockerContainer, ...] = ()
    host: str | None = None
    """The engine's URL, ``unix:///path``; unless said, that of DOCKER_HOST, of the current docker context, or the
    usual socket."""


class Volume(msgspec.Struct, frozen=True):
    """An entry of `volumes`."""

    source: str
    """An absolute path, or the name of a volume."""
    target: str
    read_only: bool

    @property
    def is_bind(self) -> bool:
        """Whether it is a folder or file of the engine's machine."""
        return self.source.startswith("/")

    @classmethod
    def parse(cls, text: str, folder: Path) -> "Volume":
        """Raises `ValueError` saying what was expected."""
        match text.split(":"):
            case [source, target] if source and target.startswith("/"):
                read_only = False
            case [source, target, "ro" | "rw" as mode] if source and target.startswith("/"):
                read_only = mode == "ro"
            case _:
                raise ValueError(f"expected source:/target or source:/target:ro, got {text!r}")
        if source.startswith((".", "~")):
            source = str((folder / _without_tilde(source)).resolve())
        elif not source.startswith("/") and not NAME.fullmatch(source):
            raise ValueError(f"expected a path (./{source}, /{source}) or a volume's name, got {source!r}")
        return cls(source, target, read_only)


def _without_tilde(source: str) -> Path:
    try:
        return Path(source).expanduser()
    except RuntimeError as error:
        raise ValueError(f"there is no home folder for {source!r}") from error


def problems(config: DockerConfig, folder: Path) -> Iterator[Problem]:
    """What a container's table does not show by itself."""
    yield from id_problems(config.containers)
    for number, container in enumerate(config.containers):
        where = f"containers[{number}]"
        yield from (Problem(f"{where}.env", text) for text in env_problems(container.env))
        for index, volume in enumerate(container.volumes):
            try:
                Volume.parse(volume, folder)
            except ValueError as error:
                yield Problem(f"{where}.volumes[{index}]", str(error))


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
