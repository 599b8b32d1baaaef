"""The engine that tests run on: an existing one, or one that is started for them."""

import contextlib
import os
import sys
from collections.abc import Iterator
from functools import cached_property

import docker
import docker.errors

from engine import debian
from engine.dockerd import Dockerd, EngineFailed
from engine.images import LABEL, Images
from engine.ping import answers

DEFAULT_HOST = "unix:///var/run/docker.sock"


class NoEngine(Exception):
    """No engine exists, and none can be started; the message says what to do."""


class Engine:
    """An engine: `host` for whoever wants to find it, `client` of docker-py, `images` for tests.

    `dockerd` controls the engine if the tests started it. On another engine it is None, and only objects with their
    label are removed.
    """

    def __init__(self, host: str, client: docker.DockerClient, dockerd: Dockerd | None = None) -> None:
        self.host = host
        self.client = client
        self.dockerd = dockerd

    @property
    def ours(self) -> bool:
        return self.dockerd is not None

    @cached_property
    def images(self) -> Images:
        return Images(self.client)

    def sweep(self, *, images: bool = False) -> None:
        """Remove everything with the label, which containers inherit from images; on the tests' engine, everything."""
        labelled = None if self.ours else {"label": LABEL}
        for container in self.client.containers.list(all=True, filters=labelled, ignore_removed=True):
            with contextlib.suppress(docker.errors.NotFound):
                container.remove(force=True, v=True)
        for network in self.client.networks.list(filters=labelled or {"type": "custom"}):
            with contextlib.suppress(docker.errors.NotFound):
                network.remove()
        for image in self.client.images.list(filters={"label": LABEL}) if images else ():
            with contextlib.suppress(docker.errors.APIError):  # somebody's container uses it
                self.client.images.remove(image.id, force=True)


@contextlib.contextmanager
def open_engine() -> Iterator[Engine]:
    """Give the engine that users' tools would find, or else one for the tests until the block ends. Raise NoEngine."""
    found = _find()
    if found is None:
        found = _install()
    with _theirs(found) if found else _ours() as engine:
        yield engine


def _find() -> str | None:
    host = os.environ.get("DOCKER_HOST")
    if host and not answers(host):
        raise NoEngine(f"the engine at DOCKER_HOST={host} does not answer: start it, or unset DOCKER_HOST")
    return host or (DEFAULT_HOST if answers(DEFAULT_HOST) else None)


def _install() -> str | None:
    """Install the needs of an engine of the tests. Return the system's engine if that starts one, as with systemd."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise NoEngine("no engine answers: start Docker or set DOCKER_HOST; as root on Linux the tests start their own")
    try:
        debian.need("dockerd", "iptables")
    except debian.Missing as missing:
        raise NoEngine(f"no engine answers; {missing}") from None
    return _find()


def is_there() -> bool:
    """Return True if there is an engine that users' tools would find."""
    return "DOCKER_HOST" in os.environ or answers(DEFAULT_HOST)


def prepare() -> None:
    """Install the system requirements of the tests, if they are missing. Raise NoEngine or debian.Missing."""
    if _find() is None:
        _install()
    debian.need("docker-registry")


@contextlib.contextmanager
def _theirs(host: str) -> Iterator[Engine]:
    with contextlib.closing(docker.DockerClient(base_url=host, timeout=60)) as client:
        engine = Engine(host, client)
        engine.sweep()
        try:
            yield engine
        finally:
            engine.sweep(images=True)


@contextlib.contextmanager
def _ours() -> Iterator[Engine]:
    with contextlib.ExitStack() as stack:
        try:
            dockerd = stack.enter_context(Dockerd())
        except EngineFailed as failed:
            raise NoEngine(f"our own engine did not come up: {failed}") from failed
        client = stack.enter_context(contextlib.closing(docker.DockerClient(base_url=dockerd.host, timeout=60)))
        engine = Engine(dockerd.host, client, dockerd)
        try:
            yield engine
        finally:
            dockerd.repair()
            engine.sweep()  # removes interfaces of networks, which are not in the engine's namespaces
