"""The facts about a container that does not answer: the ports of its image, and where its program listens."""

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from nodekit import time_limit
from nodekit_docker.containers.state import State
from nodekit_docker.engine.engine import Engine
from nodekit_docker.engine.errors import EngineGone, EngineRefused
from nodekit_remote import listening_places, shown_places

FIRST_LOOK_SECONDS = 4.0
"""Time after which the container is looked at for the first time. The pauses between the next looks double."""
LOOK_SECONDS = 2.0
_TABLES = 'for file in /proc/net/tcp*; do while read -r line; do echo "$line"; done < $file; done'
TABLES = ("/bin/sh", "-c", _TABLES)
"""The command, in the container, that shows where its program listens. It needs a shell, which most images have."""


class Unanswered:
    """A container that does not answer yet."""

    def __init__(self, engine: Engine, port: int) -> None:
        self._engine = engine
        self._port = port
        self._pause = FIRST_LOOK_SECONDS
        self._due = time.monotonic() + self._pause
        self.outcome = "nothing yet"
        """The outcome of the last attempt to get an answer."""
        self._known = ""
        """Facts about its ports, as the end of a sentence."""

    async def look_if_due(self, state: State) -> None:
        """Look for the reason now and then."""
        if time.monotonic() >= self._due:
            await self.look(state)
            self._pause *= 2
            self._due = time.monotonic() + self._pause

    async def look(self, state: State) -> None:
        """Look for the reason."""
        self._known = f"{await self._listens(state)}{await self._exposes(state)}"

    @property
    def missing(self) -> str:
        """Text about what is missing."""
        return f"{self.outcome}; its program must listen on 0.0.0.0:{self._port} inside{self._known}"

    async def _listens(self, state: State) -> str:
        with suppress(EngineGone, EngineRefused), time_limit(LOOK_SECONDS):
            tables = await self._engine.printed_by(state.id, TABLES)
            if tables is not None:
                places = [place for place in listening_places(tables) if not _is_engines(place)]
                return f", and listens on {shown_places(places)}"
        return ""

    async def _exposes(self, state: State) -> str:
        """Return a clause about the ports that the image exposes, if the port is not among them."""
        image: Mapping[str, Any] | None = None
        with suppress(EngineGone, EngineRefused), time_limit(LOOK_SECONDS):
            image = await self._engine.image(state.image)
        settings: Mapping[str, Any] = (image or {}).get("Config") or {}
        ports: Mapping[str, Any] = settings.get("ExposedPorts") or {}
        if not ports or f"{self._port}/tcp" in ports:
            return ""
        names = [name.removesuffix("/tcp") for name in sorted(ports)]
        return f"; its image exposes {shown_places(names)}, not {self._port}: `port` of a node file names another port"


def _is_engines(place: str) -> bool:
    """Return True for the name server that an engine puts into each container of a network of its users."""
    return place.startswith("127.0.0.11:")
