"""The settings of Docker containers in a node file, and the problems found before an engine is asked."""

import re
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Annotated, Literal, TypeAlias

import msgspec

from nodekit import EnvValue, Problem, Secret, resolved_path
from nodekit_docker.engine.errors import EngineGone
from nodekit_docker.engine.find import with_home_folder
from nodekit_docker.sizes import SIZE, size_in_bytes
from nodekit_remote import StartedContainer, env_problems, id_problems

Gpus: TypeAlias = Literal["all"] | Annotated[int, msgspec.Meta(ge=1)] | tuple[str, ...]
"""All GPUs, a number of GPUs, or the listed ones (by index or UUID, as the driver names them)."""

OWN_LABELS = "nodekit."
"""Prefix of labels that are reserved for the runner."""
OWN_NAMES = "nodekit-"
"""Prefix of names that are reserved for the runner."""

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
ISOLATED = "isolated"
"""Value of `network` for a network of the container's own, with no way out."""
NO_NETWORK = "none"

_CAPABILITY = re.compile(r"[A-Z][A-Z_]+")
_WAYS_OUT = ("ALL", "NET_ADMIN", "NET_RAW")
_OF_SERVED_ONLY = {
    "name": "each step has its own container, and a name belongs to one container",
    "port": "a program is not called over HTTP",
    "host_port": "a program is not called over HTTP",
    "bearer": "a program is not called over HTTP",
    "http_errors": "a program is not called over HTTP",
    "startup_seconds": "a program need not answer before it is given its input; see `timeout_seconds`",
    "stop_seconds": "a program that is abandoned is killed at once",
}
"""Keys that have no meaning for a program, with the reason."""
_NO_NETWORKS = {
    "none": "a container without network cannot be called",
    "host": "a container on the machine's own network listens on all of its addresses",
    "container": "a container on another's network publishes no port of its own",
}
_NO_ENV: Mapping[str, EnvValue] = MappingProxyType({})
_NO_TEXTS: Mapping[str, str] = MappingProxyType({})


class Credentials(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The account that asks a registry for an image."""

    username: str
    password: Secret


class DockerContainer(StartedContainer, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A container that a Docker engine runs. By default it may do little: see the defaults of its keys.

    - `image`: ``name:tag`` or ``name@sha256:…``; without either, the tag ``latest``.
    - `mode`: ``served``: called over HTTP for as long as the node runs. ``once``: a program that runs once for each
      step, with the step's data on standard input and the output on standard output.
    - `name`: Its name on the engine; by default made of the node's name and its id.
    - `command`: Arguments in place of the image's own; no shell.
    - `env`: More of its environment. PYTHONUNBUFFERED is 1 by default. Who may use the engine can read it, secrets
      included.
    - `volumes`: ``source:/target[:ro]``: a folder or file (relative ones, with a dot in front, to the node file's
      folder) or a volume's name.
    - `port`: The port inside the container on which its program listens.
    - `host_port`: The port on 127.0.0.1 at which it is published; by default a free port.
    - `pull`: Policy for asking the registry for its image.
    - `registry`: The credentials for its image; by default those that ``docker login`` stored.
    - `network`: The name of a network that is there, or ``isolated``; by default, the engine's default bridge, and for
      a program none.
    - `extra_hosts`: Names → addresses, or ``host-gateway``.
    - `memory`: The most it may use, swap included; past it, its program is killed.
    - `pids`: Maximum number of its processes and threads.
    - `user`: ``uid[:gid]`` or a name; by default the image's own.
    - `read_only`: True makes its root file system read-only.
    - `tmpfs`: Folders in memory, which count towards `memory`, with their sizes.
    - `capabilities`: Linux capabilities that it has; all others are dropped.
    - `startup_seconds`: Maximum number of seconds until it answers.
    """

    image: Annotated[str, msgspec.Meta(min_length=1)]  # pyright: ignore[reportGeneralTypeIssues] - no default here
    mode: Literal["served", "once"] = "served"
    name: str | None = None
    command: tuple[str, ...] = ()
    env: Mapping[str, EnvValue] = _NO_ENV
    volumes: tuple[str, ...] = ()
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 3000
    host_port: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None
    gpus: Gpus | None = None
    pull: Literal["always", "missing", "never"] = "missing"
    registry: Credentials | None = None
    network: str | None = None
    extra_hosts: Mapping[str, str] = _NO_TEXTS
    labels: Mapping[str, str] = _NO_TEXTS
    memory: str = "2GiB"
    cpus: Annotated[float, msgspec.Meta(ge=0.01, le=1e6)] | None = None
    pids: Annotated[int, msgspec.Meta(ge=1)] = 512
    user: str | None = None
    read_only: bool = False
    tmpfs: Mapping[str, str] = _NO_TEXTS
    capabilities: tuple[str, ...] = ()
    startup_seconds: Annotated[float, msgspec.Meta(gt=0)] = 60.0

    @property
    def isolated(self) -> bool:
        """True if it has a network of its own, with no way out."""
        return self.network == ISOLATED

    @property
    def once(self) -> bool:
        """True if it is a program that runs once for each step."""
        return self.mode == "once"

    def __post_init__(self) -> None:
        super().__post_init__()
        for problem in (*self._problems(), *self._network_problems(), *self._mode_problems()):
            raise ValueError(problem)

    def _problems(self) -> Iterator[str]:
        """Yield problems; each text begins with its key."""
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
                yield f"labels: names that begin with {OWN_LABELS} are reserved for the runner, got {label!r}"
        if self.name is not None and not (NAME.fullmatch(self.name) and len(self.name) > 1):
            yield f"name: expected two or more letters, digits and _.-, beginning with no _.-, got {self.name!r}"
        elif self.name is not None and self.name.startswith(OWN_NAMES):
            text = f"names that begin with {OWN_NAMES} are reserved for the runner, got {self.name!r}"
            yield f"name: {text}; leave it out to get one"

    def _network_problems(self) -> Iterator[str]:
        kind = (self.network or "").partition(":")[0]
        if kind in _NO_NETWORKS and not (self.once and kind == NO_NETWORK):
            yield f"network: {_NO_NETWORKS[kind]}; name another, or leave it out"
        if self.isolated and self.once:
            yield "network: a program has no network by default; leave it out"
        if self.isolated and self.host_port is not None:
            yield "host_port: an isolated container publishes no port; leave it out"
        for name in self.capabilities if self.isolated else ():
            if name.removeprefix("CAP_") in _WAYS_OUT:
                yield f"capabilities: {name} would let it out of an isolated network; leave it out"

    def _mode_problems(self) -> Iterator[str]:
        if not self.once:
            return
        defaults = {field.name: field.default for field in msgspec.structs.fields(type(self))}
        for key, why in _OF_SERVED_ONLY.items():
            if getattr(self, key) != defaults[key]:
                yield f'{key}: it has no meaning with mode = "once": {why}; leave it out'


class DockerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The runner's settings.

    - `host`: The engine's URL, ``unix:///path``; by default, that of DOCKER_HOST, of the current docker context, or the
      usual socket.
    - `state`: The folder of the node's secret, by which it knows its containers again, and of the lock of its name; by
      default ``.nodekit`` beside the node file.
    """

    containers: tuple[DockerContainer, ...] = ()
    host: str | None = None
    state: Path | None = None


class Volume(msgspec.Struct, frozen=True):
    """An entry of `volumes`.

    - `source`: An absolute path, or the name of a volume.
    """

    source: str
    target: str
    read_only: bool

    @property
    def is_bind(self) -> bool:
        """True for a folder or file of the engine's machine."""
        return self.source.startswith("/")

    @classmethod
    def parse(cls, text: str, folder: Path) -> "Volume":
        """Parse ``source:/target[:ro]``; relative sources start at `folder`.

        Raise `ValueError`, which says what was expected, if the text is not valid.
        """
        match text.split(":"):
            case [source, target] if source and target.startswith("/"):
                read_only = False
            case [source, target, "ro" | "rw" as mode] if source and target.startswith("/"):
                read_only = mode == "ro"
            case _:
                raise ValueError(f"expected source:/target or source:/target:ro, got {text!r}")
        if source.startswith((".", "~")):
            source = str(resolved_path(source, folder).resolve())
        elif not source.startswith("/") and not NAME.fullmatch(source):
            raise ValueError(f"expected a path (./{source}, /{source}) or a volume's name, got {source!r}")
        return cls(source, target, read_only)


def problems(config: DockerConfig, folder: Path) -> Iterator[Problem]:
    """Yield the problems that a container's table alone does not show."""
    yield from id_problems(config.containers)
    try:
        with_home_folder(config.host or "")
    except EngineGone as error:
        yield Problem("host", str(error))
    for key in ("name", "host_port"):
        yield from _taken_twice(config.containers, key)
    for number, container in enumerate(config.containers):
        where = f"containers[{number}]"
        yield from (Problem(f"{where}.env", text) for text in env_problems(container.env))
        for index, volume in enumerate(container.volumes):
            try:
                Volume.parse(volume, folder)
            except ValueError as error:
                yield Problem(f"{where}.volumes[{index}]", str(error))


def _taken_twice(containers: Sequence[DockerContainer], key: str) -> Iterator[Problem]:
    values = [getattr(container, key) for container in containers]
    for number, value in enumerate(values):
        if value is not None and value in values[:number]:
            yield Problem(f"containers[{number}].{key}", f"{value!r} belongs to another container of this runner")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
