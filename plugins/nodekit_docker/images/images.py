"""The images of a node's containers, each pulled at most once at a time, as its container's settings say."""

import logging
from collections.abc import Mapping
from typing import Any

import anyio

from nodekit_docker.config import DockerContainer
from nodekit_docker.engine.engine import Engine
from nodekit_docker.engine.errors import EngineRefused, NotUp
from nodekit_docker.images.pull import Pulled, PullFailed, pull, pull_failed
from nodekit_docker.images.pull_progress import Display, display

logger = logging.getLogger("nodekit.docker")

PULLS_AT_ONCE = 8


class Images:
    """The images that were asked for, found on the machine or pulled."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._locks: dict[str, anyio.Lock] = {}
        self._pulled: set[str] = set()
        self._limit = anyio.CapacityLimiter(PULLS_AT_ONCE)

    async def ready(self, container: DockerContainer) -> str:
        """Make sure that the container's image is on the machine, and return its id. Raises `NotUp` and `EngineGone`.

        ``pull = "always"`` asks the registry once, so that a container that crashes does not ask it again and again.
        """
        lock = self._locks.setdefault(container.image, anyio.Lock())
        async with lock:
            found = await self._engine.image(container.image)
            if found is not None and (container.pull != "always" or container.image in self._pulled):
                return str(found["Id"])
            if container.pull == "never":
                text = f'image {container.image} is not on this machine, and pull = "never"; build, pull or load it'
                raise NotUp(text)
            return await self._pull(container, found)

    async def _pull(self, container: DockerContainer, found: Mapping[str, Any] | None) -> str:
        try:
            async with self._limit:
                await self._pull_in_thread(container)
        except PullFailed as failure:
            if failure.fault not in ("unreachable", "limited") or found is None:
                raise NotUp(str(failure)) from failure
            logger.warning("%s; the one on this machine is used", failure)
            self._pulled.add(container.image)
            return str(found["Id"])
        self._pulled.add(container.image)
        if (pulled := await self._engine.image(container.image)) is None:
            raise NotUp(f"image {container.image} was pulled and is gone again")
        return str(pulled["Id"])

    async def _pull_in_thread(self, container: DockerContainer) -> None:
        wanted = True
        with display(container.image) as shown:
            try:
                await self._engine.wait(lambda api: _pull(api, container, shown, lambda: wanted))
            except EngineRefused as error:
                credentials = container.registry is not None
                raise pull_failed(container.image, str(error), credentials=credentials) from error
            finally:
                wanted = False


def _pull(api: Any, container: DockerContainer, shown: Display, wanted: Any) -> None:
    def report(pulled: Pulled) -> None:
        if wanted():
            shown.update(pulled)

    pull(api, container.image, container.registry, report, wanted)
