"""The search for the engine, in the way of Docker's own tools."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from nodekit import resolved_path
from nodekit_docker.engine.errors import EngineGone

DEFAULT_SOCKET = "/var/run/docker.sock"

_TCP = ("tcp", "http", "https")
_EXPECTED = "unix:///path or tcp://127.0.0.1:port"


class Place(msgspec.Struct, frozen=True):
    """The place where an engine should be.

    - `host`: ``unix:///path`` or ``tcp://127.0.0.1:port``.
    - `how`: The source that named it, for people to read.
    """

    host: str
    how: str
    tls: Any = None


def find_engine(host: str | None = None) -> Place:
    """Return the place that `host` names, or else DOCKER_HOST, the current docker context, or the first usual socket.

    The engine is not asked yet. Raise `EngineGone` if no place is found, or if an engine there could not be used.
    """
    place = Place(with_home_folder(host), "the node file's `host`") if host else next(_places(), None)
    if place is None:
        raise EngineGone(
            f"no Docker engine was found: DOCKER_HOST is not set, and there is no {DEFAULT_SOCKET}; "
            "install one (docs.docker.com/engine/install), start it, or say where it is with DOCKER_HOST"
        )
    _check(place)
    return place


def with_home_folder(host: str) -> str:
    """Return an engine's URL with a home folder in place of ``~`` in the path of a socket. Raise `EngineGone`."""
    scheme, separator, path = host.partition("://")
    if not path.startswith("~"):
        return host
    try:
        return f"{scheme}{separator}{resolved_path(path, Path())}"
    except ValueError as error:
        raise EngineGone(str(error)) from error


def _places() -> Iterator[Place]:
    if os.environ.get("DOCKER_HOST"):
        yield _of_environment()
    if (context := _of_context()) is not None:
        yield context
    for socket in (Path(DEFAULT_SOCKET), *_rootless_sockets()):
        if os.path.exists(socket):
            yield Place(f"unix://{socket}", "it is the usual socket")


def _of_environment() -> Place:
    from docker.errors import TLSParameterError
    from docker.utils import kwargs_from_env

    try:
        kwargs = kwargs_from_env()
    except TLSParameterError as error:
        raise EngineGone(
            "DOCKER_TLS_VERIFY is set, and the folder DOCKER_CERT_PATH (by default ~/.docker) lacks a certificate: "
            "it needs ca.pem, cert.pem and key.pem"
        ) from error
    return Place(kwargs.get("base_url", os.environ["DOCKER_HOST"]), "DOCKER_HOST", kwargs.get("tls"))


def _of_context() -> Place | None:
    """Return the context chosen by `docker context use` or DOCKER_CONTEXT; None for the default context."""
    from docker.context import ContextAPI
    from docker.context.config import get_current_context_name

    name = os.environ.get("DOCKER_CONTEXT") or get_current_context_name()
    if name == "default":
        return None
    try:
        context: Any = ContextAPI.get_context(name)
    except Exception as error:  # docker-py raises a bare Exception if the context's file is damaged
        raise EngineGone(f"the docker context {name!r} cannot be read: {error}") from error
    host: str | None = context.Host if context else None
    if not host:
        raise EngineGone(f"there is no docker context {name!r}; `docker context ls` lists them")
    return Place(host, f"the docker context {name!r}", context.TLSConfig)


def _rootless_sockets() -> Iterator[Path]:
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "docker.sock"
    home = os.path.expanduser("~")  # `Path.home` raises for a user without one, as in some containers
    if home != "~":
        yield Path(home) / ".docker/run/docker.sock"


def check_client_config() -> None:
    """Raise `EngineGone` if docker-py would fail on the configuration of Docker's command, which it reads."""
    from docker import auth as auth_module
    from docker.utils import config as config_module

    auth: Any = auth_module
    config: Any = config_module
    try:
        auth.load_config(config_dict=config.load_general_config())
    except Exception as error:  # whatever its JSON makes of it
        path, cure = str(config.find_config_file()), "correct it, or name another folder by DOCKER_CONFIG"
        raise EngineGone(f"the file {path} of Docker's command cannot be used: {error!r}; {cure}") from error


def _check(place: Place) -> None:
    try:
        parts = urlsplit(place.host.replace("http+unix://", "unix://"))
    except ValueError:  # unbalanced brackets
        parts = urlsplit("")
    if parts.scheme == "unix" and parts.path:
        return
    if parts.scheme not in (*_TCP, "ssh") or not parts.hostname:
        raise EngineGone(f"{place.how} names no engine: expected {_EXPECTED}, got {place.host!r}")
    if parts.scheme not in _TCP or not _is_loopback(parts.hostname):
        raise EngineGone(
            f"the engine {place.host} ({place.how}) is on another machine, where its containers listen on loopback "
            f"only; run a node there, and use {_EXPECTED} here"
        )


def _is_loopback(name: str) -> bool:
    return name in ("localhost", "::1") or name.startswith("127.")
