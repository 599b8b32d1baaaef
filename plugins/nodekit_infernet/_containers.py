"""The containers of an Infernet node. It starts some itself; the others run elsewhere."""

import re
import shlex
from collections.abc import Iterator, Mapping
from ipaddress import ip_network
from typing import Any

from nodekit import Problem, Secret
from nodekit_infernet._config import InfernetContainer
from nodekit_infernet._draft import Draft, plain

FREEDOM: Mapping[str, Any] = {
    "memory": "1024TiB",
    "pids": 32768,
    "capabilities": [
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "NET_BIND_SERVICE",
        "SETGID",
        "SETUID",
    ],
}
"""Freedom that Infernet's containers had, and on which images may rely: all of the memory, any number of processes,
and what root may do with files and users of its own."""
STARTUP_SECONDS = 600.0
"""Infernet set no limit; loading a model can take minutes."""

DOCKER_HUB = "docker.io"
_HUB_NAMES = (DOCKER_HUB, "index.docker.io", "registry-1.docker.io")

LONGEST_NAME = 80
"""Maximum number of characters of an id, or a key, in the name of a variable or file."""

_PLAIN = ("image", "description")
_CHAIN_RULES = ("accepted_payments", "allowed_addresses", "allowed_delegate_addresses")


def add_runners(draft: Draft, *, chain: bool) -> None:
    """Add the runners and their containers, and the problems of all containers.

    `chain` is true if a plugin reads the chain's rules.
    """
    config = draft.read.config
    numbered = list(enumerate(config.containers))
    is_managed = [config.manage_containers and bool(one.image or not one.url) for one in config.containers]
    managed = [(number, one) for number, one in numbered if is_managed[number]]
    others = [(number, one) for number, one in numbered if not is_managed[number]]
    draft.problems += [problem for number, one in numbered for problem in _problems(f"containers[{number}]", one)]
    draft.problems += [
        Problem(
            f"containers[{number}].image",
            "is missing: with manage_containers, the node starts each container from an image",
        )
        for number, one in managed
        if not one.image
    ]
    draft.tables["runners"] = runners = list[dict[str, Any]]()
    for use, entries in (("docker", managed), ("remote", others)):
        if entries:
            _Runner(draft, use, len(runners), chain=chain).add(entries, runners)
    if managed:
        _remark_managed(draft)
    if config.docker is not None and bool(config.docker.username) != bool(config.docker.password.reveal()):
        draft.notice("", "docker: the credentials are not used, as one of username and password is empty.")
    elif not managed and config.docker is not None and config.docker.username:
        text = "docker: the credentials are not used and not written, as this node starts no container from an image"
        why = "" if config.manage_containers else " (manage_containers is false)"
        draft.notice("", f"{text}{why}; whoever starts the containers logs in there: `docker login`.")
    if draft.read.config.containers:
        text = "containers: a reply with an HTTP error status fails the job, and is shown in its error; Infernet took "
        draft.notice("runners[0]", text + 'its JSON for the output: that is http_errors = "output" of a container.')


def _problems(where: str, container: InfernetContainer) -> Iterator[Problem]:
    for number, allowed in enumerate(container.allowed_ips):
        try:
            ip_network(allowed, strict=False)
        except ValueError as error:
            yield Problem(f"{where}.allowed_ips[{number}]", str(error))
    try:
        shlex.split(container.command)
    except ValueError as error:
        yield Problem(f"{where}.command", f"cannot be split as a shell would: {error}")


class _Runner:
    """The table of one runner, while its containers are added."""

    def __init__(self, draft: Draft, use: str, number: int, *, chain: bool) -> None:
        self._draft = draft
        self._use = use
        self._where = f"runners[{number}]"
        self._chain = chain

    def add(self, entries: list[tuple[int, InfernetContainer]], runners: list[dict[str, Any]]) -> None:
        containers: list[dict[str, Any]] = []
        for place, (number, container) in enumerate(entries):
            where, origin = f"{self._where}.containers[{place}]", f"containers[{number}]"
            self._draft.origin(where, origin)
            table = {"id": container.id}
            table |= {key: getattr(container, key) for key in _PLAIN if getattr(container, key)}
            own = self._docker if self._use == "docker" else self._remote
            containers.append(table | own(where, origin, container) | self._rules(where, origin, container))
        runners.append({"use": self._use, "containers": containers})

    def _docker(self, where: str, origin: str, container: InfernetContainer) -> dict[str, Any]:
        table: dict[str, Any] = {"name": container.id}
        self._draft.origin(f"{where}.name", f"{origin}.id")
        if command := _words(container.command):
            table["command"] = command
            self._draft.copy(f"{where}.command", f"{origin}.command")
        if env := self._env(where, origin, container):
            table["env"] = env
        if container.volumes:
            table["volumes"] = list(container.volumes)
        if container.gpu:
            table["gpus"] = "all"
            self._draft.origin(f"{where}.gpus", f"{origin}.gpu")
        if registry := self._registry(where, origin, container):
            table["registry"] = registry
        for key in ("url", "bearer"):
            if getattr(container, key) and self._draft.given(f"{origin}.{key}"):
                self._draft.notice(
                    where, f"{origin}.{key}: not used, as with manage_containers the node starts an image."
                )
        if self._draft.given(f"{origin}.port"):
            text = f"{origin}.port: {container.port} is not kept; it is published on 127.0.0.1, on a port that is free."
            self._draft.notice(where, text)
        return table | self._freedom()

    def _freedom(self) -> dict[str, Any]:
        longest = max(STARTUP_SECONDS, self._draft.read.config.startup_wait)
        return {**FREEDOM, "capabilities": list(FREEDOM["capabilities"]), "startup_seconds": longest}

    def _env(self, where: str, origin: str, container: InfernetContainer) -> dict[str, str | Secret]:
        """Return the environment, with values that are not texts converted as Infernet did. All of them are secrets.

        A null is left out with a notice; in Infernet it unset the image's own variable.
        """
        for name, value in container.env.items():
            if value is None:
                self._draft.notice(where, f"{origin}.env: {name} is null, and left as the image has it.")
        env: dict[str, str | Secret] = {}
        for name, value in container.env.items():
            if value == "":
                env[name] = ""
            elif value is not None:
                env[name] = secret = Secret(str(value))
                variable = f"ENV_{_variable(container.id)}_{_variable(name, 'VALUE')}"
                self._draft.secret(f"{where}.env.{name}", f"{origin}.env.{name}", variable, secret)
        return env

    def _registry(self, where: str, origin: str, container: InfernetContainer) -> dict[str, Any] | None:
        """Return the credentials for the image. They are an account of Docker Hub, and no other registry gets them."""
        docker = self._draft.read.config.docker
        if docker is None or not docker.username or not docker.password.reveal():
            return None
        if (registry := registry_of(container.image)) != DOCKER_HUB:
            text = f"{origin}.image: {registry} does not get docker.username, an account of Docker Hub; for an image "
            text += f"that is not public, `docker login {registry}` as the user of the node."
            self._draft.notice(where, text)
            return None
        self._draft.origin(f"{where}.registry", "docker")
        self._draft.secret(f"{where}.registry.password", "docker.password", "DOCKER_PASSWORD", docker.password)
        return {"username": docker.username, "password": docker.password}

    def _remote(self, where: str, origin: str, container: InfernetContainer) -> dict[str, Any]:
        table: dict[str, Any] = {"url": container.url or f"http://localhost:{container.port}"}
        if not container.url:
            self._draft.origin(f"{where}.url", f"{origin}.port")
            self._draft.comment(f"{where}.url", f"{origin}.port: where it listens on this machine.")
        elif _is_more_than_an_address(container.url):
            self._draft.copy(f"{where}.url", f"{origin}.url")
        if container.url and self._draft.given(f"{origin}.port"):
            self._draft.comment(where, f"{origin}.port: not used, as url says where it listens.")
        if container.bearer is not None and container.bearer.reveal():
            table["bearer"] = container.bearer
            self._draft.secret(
                f"{where}.bearer", f"{origin}.bearer", f"BEARER_{_variable(container.id)}", container.bearer
            )
        unread = [key for key in ("command", "env", "gpu", "volumes") if getattr(container, key)]
        for key in unread:
            self._draft.comment(where, f"{origin}.{key}: not used, as the node does not start this container.")
        return table

    def _rules(self, where: str, origin: str, container: InfernetContainer) -> dict[str, Any]:
        table: dict[str, Any] = {"external": container.external}
        if container.allowed_ips:
            table["allowed_ips"] = [_network(allowed) for allowed in container.allowed_ips if _is_network(allowed)]
        else:
            self._draft.comment(where, "allowed_ips: none is listed, so everybody may use it, as in Infernet.")
        if container.generates_proofs:
            table["generates_proofs"] = True
        for key in _CHAIN_RULES:
            if not (value := getattr(container, key)):
                continue
            if self._chain:
                table[key] = plain(value)
            else:
                self._draft.comment(where, f"{origin}.{key}: for a chain plugin; none is used.")
        return table


def registry_of(image: str) -> str:
    """Return the registry of an image, as Docker tells it from the first part of a path."""
    first, slash, _ = image.partition("/")
    if not slash or (not re.search(r"[.:]", first) and first != "localhost" and first == first.lower()):
        return DOCKER_HUB
    return DOCKER_HUB if first.lower() in _HUB_NAMES else first


def _is_more_than_an_address(url: str) -> bool:
    """Return True if a key may be in the URL: in its path, say."""
    return re.fullmatch(r"\w+://[^/?#@]*/?", url) is None


def _words(command: str) -> list[str]:
    """Return the arguments of a command; none of one that cannot be split, which is a problem of its own."""
    try:
        return shlex.split(command)
    except ValueError:
        return []


def _is_network(allowed: str) -> bool:
    try:
        ip_network(allowed, strict=False)
    except ValueError:
        return False
    return True


def _network(allowed: str) -> str:
    """Return the network. If its host bits are set, they are cleared, because the guardian requires that."""
    try:
        ip_network(allowed)
    except ValueError:
        return str(ip_network(allowed, strict=False))
    return allowed


def _variable(id: str, otherwise: str = "CONTAINER") -> str:
    return re.sub(r"[^A-Z0-9]+", "_", id.upper()).strip("_")[:LONGEST_NAME] or otherwise


def _remark_managed(draft: Draft) -> None:
    draft.notice(
        "runners[0]",
        "manage_containers: containers are as unrestricted as Infernet's, and may use all memory of the machine; a "
        "node file of its own can bound memory and pids, and take capabilities away.",
    )
    draft.comment("runners[0]", "They are on 127.0.0.1 only; Infernet's were on all addresses.")
    draft.comment("runners[0]", "They are started again whenever they die; Infernet's at most 5 times.")
    text = "Images are pulled where they are not on the machine; Infernet asked the registry at each start: "
    draft.comment("runners[0]", text + 'that is pull = "always".')
    draft.comment("runners[0]", "startup_seconds: how long one may take until it answers; Infernet set no limit.")
