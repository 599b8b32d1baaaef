"""The checks of `nodekit doctor` for Docker."""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, TypeAlias

from nodekit import Configured, ExaminedFile, Finding
from nodekit_docker.containers.ownership import Kind, Ownership
from nodekit_docker.containers.state import NODE, STATE, Made
from nodekit_docker.containers.state_folder import StateUnusable, is_secret_path, read_secret
from nodekit_docker.engine.engine import Engine
from nodekit_docker.engine.errors import EngineGone, EngineRefused
from nodekit_docker.engine.find import Place, find_engine
from nodekit_docker.engine.own_container import own_container_id
from nodekit_docker.sizes import shown_size

Level: TypeAlias = Literal["ok", "note", "warning", "error"]

OLDEST_API = (1, 41)
"""The API of engine 20.10, the oldest that the tests run on."""
LITTLE_SPACE_BYTES = 5 << 30
OLDEST_CLOSED_TO_NEIGHBOURS = 28

_REMOVE: Mapping[Kind, str] = {"container": "rm -f", "network": "network rm"}


def findings(file: ExaminedFile | None = None) -> Iterator[Finding]:
    """Report the engines of a node file, or the one that is found, and the features that matter to the runner."""
    runners = file.of("runner", "docker") if file else ()
    for host in dict.fromkeys(one.config.host for one in runners) or [None]:
        yield from _of_engine(host, [one for one in runners if one.config.host == host])


def _of_engine(host: str | None, runners: Sequence[Configured]) -> Iterator[Finding]:
    """Report an engine. It must be there if runners need it."""
    try:
        place = find_engine(host)
    except EngineGone as error:
        level: Level = "error" if runners else "note"
        cure = "the runner `docker` of the node file needs it" if runners else "only the runner `docker` needs one"
        yield Finding(level, _subject(runners), str(error), cure)
        return
    with closing(Engine(place)) as engine:
        yield from _of_place(engine, place, runners)


def _of_place(engine: Engine, place: Place, runners: Sequence[Configured]) -> Iterator[Finding]:
    try:
        version: Mapping[str, Any] = engine.translated(lambda: engine.client().version())
        info: Mapping[str, Any] = engine.translated(lambda: engine.client().info())
    except (EngineGone, EngineRefused) as error:
        text, cure = f"{error} (it was found by: {place.how})", "start it, or unset what names it"
        yield Finding("error" if runners else "warning", _subject(runners), text, cure)
        return
    yield _found(place, version)
    yield from _of_version(version)
    yield from _of_limits(info)
    yield from _of_disk(info)
    yield from _of_gpus(info)
    yield from _of_inside(engine)
    yield from _of_neighbours(version)
    yield from _of_orphans(engine)
    for one in runners:
        yield from _of_containers(engine, info, one)


def _subject(runners: Sequence[Configured]) -> str:
    return ", ".join(one.where for one in runners) or "docker"


def _of_containers(engine: Engine, info: Mapping[str, Any], runner: Configured) -> Iterator[Finding]:
    """Report what containers of a node file need and the engine does not have."""
    for number, container in enumerate(runner.config.containers):
        where = f"{runner.where}.containers[{number}]"
        if container.gpus is not None and "nvidia" not in (info.get("Runtimes") or {}):
            text = "the engine has no NVIDIA runtime, so the container will hardly start"
            yield Finding("warning", f"{where}.gpus", text, "install the NVIDIA Container Toolkit, or leave gpus out")
        if container.pull == "never" and not _has_image(engine, container.image):
            text = f"the engine does not have {container.image}, which is never pulled"
            yield Finding(
                "error", f"{where}.image", text, f'docker pull {container.image}, or leave out pull = "never"'
            )


def _has_image(engine: Engine, image: str) -> bool:
    try:
        engine.translated(lambda: engine.client().inspect_image(image))
    except EngineRefused as error:
        return error.status != 404
    except EngineGone:
        return True  # it is not known
    return True


def _found(place: Place, version: Mapping[str, Any]) -> Finding:
    text = (
        f"engine {version.get('Version')} (API {version.get('ApiVersion')}) at {place.host}, found by: {place.how}; "
        "a `host` in a node file takes precedence"
    )
    return Finding("ok", "docker", text)


def _of_version(version: Mapping[str, Any]) -> Iterator[Finding]:
    api = str(version.get("ApiVersion", ""))
    if all(part.isdigit() for part in api.split(".")) and tuple(map(int, api.split("."))) < OLDEST_API:
        oldest = ".".join(map(str, OLDEST_API))
        yield Finding(
            "warning", "docker", f"its API {api} is older than {oldest}, the oldest that is tested", "update the engine"
        )


def _of_limits(info: Mapping[str, Any]) -> Iterator[Finding]:
    """Report limits that the engine cannot enforce. It accepts them, with a warning that nobody sees."""
    missing = [name for key, name in (("MemoryLimit", "memory"), ("PidsLimit", "pids")) if not info.get(key)]
    if missing:
        text = f"this engine cannot limit {' and '.join(missing)} of containers"
        yield Finding("warning", "docker limits", text, "enable the cgroup controllers; see the engine's documentation")
    else:
        memory, cpus = shown_size(float(info.get("MemTotal") or 0)), info.get("NCPU")
        yield Finding("ok", "docker limits", f"memory and processes can be limited; it has {memory} and {cpus} CPUs")


def _of_disk(info: Mapping[str, Any]) -> Iterator[Finding]:
    """Report the free space for images and containers, if they are kept on this machine."""
    folder = Path(str(info.get("DockerRootDir") or ""))
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return
    text = f"{shown_size(free)} free in {folder}, where the engine keeps images"
    if free < LITTLE_SPACE_BYTES:
        yield Finding("warning", "docker disk", text, "`docker system prune` removes what nobody uses")
    else:
        yield Finding("ok", "docker disk", text)


def _of_gpus(info: Mapping[str, Any]) -> Iterator[Finding]:
    runtimes: Mapping[str, Any] = info.get("Runtimes") or {}
    if "nvidia" not in runtimes:
        text = "the engine has no NVIDIA runtime: containers with `gpus` will not start"
        yield Finding("note", "docker gpus", text, "if there are GPUs, install the NVIDIA Container Toolkit")
    else:
        yield Finding("ok", "docker gpus", "the engine has the NVIDIA runtime")


def _of_inside(engine: Engine) -> Iterator[Finding]:
    if (id := own_container_id()) is None:
        return
    try:
        engine.translated(lambda: engine.client().inspect_container(id))
    except EngineRefused:
        text = "this is a container, but not one of this engine: ports that it publishes cannot be called from here"
        yield Finding("warning", "docker", text, "mount the socket of the engine that runs this container")
    except EngineGone as error:
        yield Finding("warning", "docker", str(error))
    else:
        text = "this is a container of this engine: a node here calls its containers in their common network"
        yield Finding("ok", "docker", text)


def _of_neighbours(version: Mapping[str, Any]) -> Iterator[Finding]:
    """Report engines that forward packets of the machine's neighbours to ports that are published on loopback."""
    major = str(version.get("Version", "")).partition(".")[0]
    if major.isdigit() and int(major) < OLDEST_CLOSED_TO_NEIGHBOURS:
        text = (
            f"machines in a common network with this one can reach published ports of containers, also those on "
            f"127.0.0.1, by the containers' addresses: engines before {OLDEST_CLOSED_TO_NEIGHBOURS} forward that"
        )
        cure = 'update the engine, give containers `network = "isolated"`, or let a firewall drop it'
        yield Finding("warning", "docker ports", text, cure)


def _of_orphans(engine: Engine) -> Iterator[Finding]:
    """Report containers and networks that carry a node's labels, and that no node knows as its own.

    The secret of their node is lost, or their labels are copies. A secret that this user may not read says nothing.
    """
    filters = {"label": [NODE]}
    try:
        containers = engine.translated(lambda: list(engine.client().containers(all=True, filters=filters)))
        networks = engine.translated(lambda: list(engine.client().networks(filters=filters)))
    except (EngineGone, EngineRefused):  # a proxy in front of the engine may hide them
        return
    yield from _orphans("container", map(Made.container, containers))
    yield from _orphans("network", map(Made.network, networks))


def _orphans(kind: Kind, found: Iterable[Made]) -> Iterator[Finding]:
    for made in found:
        if _is_orphan(kind, made):
            node = made.labels[NODE]
            text = f"no node here knows the {kind} {made.name} as its own, though its labels name the node {node!r}"
            cure = f"if no node in a container has made it, remove it: docker {_REMOVE[kind]} {made.name}"
            yield Finding("warning", "docker orphans", text, cure)


def _is_orphan(kind: Kind, made: Made) -> bool:
    path = made.labels.get(STATE, "")
    try:
        secret = read_secret(Path(path)) if is_secret_path(path) else None
    except PermissionError:
        return False
    except (OSError, ValueError, StateUnusable):
        secret = None
    return secret is None or not Ownership(secret, made.labels[NODE], Path(path)).owns(kind, made)
