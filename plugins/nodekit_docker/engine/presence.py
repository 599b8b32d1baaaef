"""The engine's presence, known from its stream of events, and from a heartbeat in case the engine hangs."""

import logging
import time
from collections.abc import Callable

import anyio

from nodekit import time_limit
from nodekit_docker.engine.engine import PING_SECONDS, Engine
from nodekit_docker.engine.errors import EngineGone, EngineRefused
from nodekit_docker.engine.events import EventStream

logger = logging.getLogger("nodekit.docker")

HEARTBEAT_SECONDS = 5.0
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
STEADY_SECONDS = 5.0
"""A stream of events that ends sooner never worked: a proxy in front of the engine may block events."""


class Presence:
    """A follower of an engine that may go away and come back."""

    def __init__(self, engine: Engine, label: str, notify: Callable[[str | None], None]) -> None:
        """`notify` gets the id of a container that something happened to, or None to look at all containers."""
        self.trouble = ""
        """The reason why the engine cannot be asked right now; empty if it can."""
        self._engine = engine
        self._label = label
        self._notify = notify
        self._back = anyio.Event()
        self._back.set()
        self._doubted = anyio.Event()

    async def here(self) -> None:
        """Wait until the engine answers, as far as is known."""
        await self._back.wait()

    def is_gone(self, why: str) -> None:
        """Note that the engine did not answer a call. A ping follows at once."""
        before, self.trouble = self.trouble, why
        self._doubted.set()
        if not before:
            logger.warning("%s; running containers continue", why)
            self._back = anyio.Event()
            self._notify(None)

    async def follow(self) -> None:
        """Report what happens, until cancelled."""
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
        """Listen until the events end, a heartbeat is not answered, or `is_gone` is called.

        Raise the engine's errors if it does not answer in the first place.
        """
        await self._engine.ping()
        doubted = self._doubted = anyio.Event()
        stream = EventStream(self._engine, self._label, notify=self._notify, ended=doubted.set)
        try:
            await self._opened(stream)
            self._is_here()
            while not doubted.is_set():
                with anyio.move_on_after(HEARTBEAT_SECONDS):
                    await doubted.wait()
                await self._engine.ping()  # a heartbeat; if the events ended, the engine may have ended, too
        finally:
            stream.close()

    async def _opened(self, stream: EventStream) -> None:
        """Wait for the stream of events to open.

        A ping may succeed on a kept connection although no new one can be opened. Only the stream's connection counts.
        """
        with time_limit(PING_SECONDS):
            await stream.opened.wait()
            if stream.error is not None:
                raise stream.error
            return
        raise EngineGone(f"the Docker engine {self._engine.place.host} sends no events within {PING_SECONDS:g} s")

    def _is_here(self) -> None:
        if self.trouble:
            logger.info("the Docker engine %s is back", self._engine.place.host)
        self.trouble = ""
        self._back.set()
        self._notify(None)
