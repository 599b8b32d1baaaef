"""Whether the engine is there: known from its stream of events, and a heartbeat for an engine that hangs."""

import logging
import time
from collections.abc import Callable

import anyio

from nodekit_docker.engine.engine import PING_SECONDS, Engine
from nodekit_docker.engine.errors import EngineGone, EngineRefused
from nodekit_docker.engine.events import EventStream

logger = logging.getLogger("nodekit.docker")

HEARTBEAT_SECONDS = 5.0
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
STEADY_SECONDS = 5.0
"""Events that ended before were never told: what is in front of the engine may not let them through."""


class Presence:
    """Follows an engine that goes away and comes back."""

    def __init__(self, engine: Engine, label: str, tell: Callable[[str | None], None]) -> None:
        """`tell` is called with the id of a container that something happened to; None: look at all of them."""
        self.trouble = ""
        """Why the engine cannot be asked right now; empty: it can."""
        self._engine = engine
        self._label = label
        self._tell = tell
        self._back = anyio.Event()
        self._back.set()
        self._doubted = anyio.Event()

    async def here(self) -> None:
        """Returns when the engine answers, as far as is known."""
        await self._back.wait()

    def is_gone(self, why: str) -> None:
        """It did not answer somebody; it is asked at once whether it is there."""
        before, self.trouble = self.trouble, why
        self._doubted.set()
        if not before:
            logger.warning("%s; what runs, runs on", why)
            self._back = anyio.Event()
            self._tell(None)

    async def follow(self) -> None:
        """Tell what happens, until cancelled."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            began = time.monotonic()
            try:
                await self._listen()
            except EngineGone as error:
                self.is_gone(str(error))
            except EngineRefused as error:
                self.is_gone(f"the Docker engine {self._engine.place.host} answers with an error: {error}")
            else:
                if time.monotonic() - began >= STEADY_SECONDS:
                    pause = FIRST_PAUSE_SECONDS
                    continue
            await anyio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _listen(self) -> None:
        """Until its events end, it does not answer a heartbeat, or somebody says that it is gone.

        Raises its errors where it is not there in the first place.
        """
        await self._engine.ping()
        doubted = self._doubted = anyio.Event()
        stream = EventStream(self._engine, self._label, tell=self._tell, ended=doubted.set)
        try:
            await self._opened(stream)
            self._is_here()
            while not doubted.is_set():
                with anyio.move_on_after(HEARTBEAT_SECONDS):
                    await doubted.wait()
                await self._engine.ping()  # a heartbeat; or else what has ended its events may have ended it
        finally:
            stream.close()

    async def _opened(self, stream: EventStream) -> None:
        """A kept connection may answer a ping although no new one can be opened: only this one counts."""
        with anyio.move_on_after(PING_SECONDS):
            await stream.opened.wait()
            if stream.error is not None:
                raise stream.error
            return
        raise EngineGone(f"the Docker engine {self._engine.place.host} tells no events within {PING_SECONDS:g} s")

    def _is_here(self) -> None:
        if self.trouble:
            logger.info("the Docker engine %s is back", self._engine.place.host)
        self.trouble = ""
        self._back.set()
        self._tell(None)
