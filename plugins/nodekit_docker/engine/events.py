"""The stream of an engine's events, read by a thread."""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import anyio

from nodekit_docker.engine.engine import Engine
from nodekit_docker.engine.errors import EngineGone, EngineRefused

EVENTS = ("start", "die", "oom", "pause", "unpause", "destroy")
"""The events that are asked for. The others do not matter, and health checks emit many of them."""
REPEATED_SECONDS = 3
"""Events of the last seconds are asked for, too: the engine subscribes only after it has answered."""


def container_of(event: Mapping[str, Any]) -> str | None:
    """Return the container's id, or None if the event has none. Engines since API 1.52 put it into `Actor` alone."""
    actor: Mapping[str, Any] = event.get("Actor") or {}
    return actor.get("ID") or event.get("id") or None


class EventStream:
    """The events of containers with a label, from now on.

    The stream ends without an error when the engine ends. A frozen engine does not end it.
    """

    def __init__(
        self, engine: Engine, label: str, *, notify: Callable[[str | None], None], ended: Callable[[], object]
    ) -> None:
        """Start to read. Both functions are called on the event loop.

        `notify` gets a container's id, or None if it may be any container. `ended` is called when no more events come.
        """
        self.opened = anyio.Event()
        """Set when the engine has begun to send events, or will not send any; `error` then says why."""
        self.error: EngineGone | EngineRefused | None = None
        self._engine = engine
        self._label = label
        self._notify = notify
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._stream: Any = None
        self._closed = False
        engine.threads.start(self._read)

    def close(self) -> None:
        """End the stream. Its thread ends soon, or, if the engine has not answered yet, when it does."""
        self._closed = True
        self._close_stream()

    def _read(self) -> None:
        try:
            self._stream = self._engine.translated(self._open)
        except (EngineGone, EngineRefused) as error:
            self.error = error
        self._on_loop(self.opened.set)
        if self._closed:
            self._close_stream()
        with suppress(Exception):  # however the stream ends, the engine's next answer shows what is wrong
            for event in self._stream or ():
                self._on_loop(self._on_event, container_of(event))
        self._on_loop(self._ended)

    def _open(self) -> Any:
        return self._engine.client().events(
            decode=True,
            since=int(time.time()) - REPEATED_SECONDS,
            filters={"type": "container", "label": self._label, "event": list(EVENTS)},
        )

    def _close_stream(self) -> None:
        with suppress(Exception):  # the client's own socket may be gone already
            if self._stream is not None:
                self._stream.close()

    def _on_loop(self, function: Callable[..., object], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(function, *arguments)

    def _on_event(self, id: str | None) -> None:
        if not self._closed:
            self._notify(id)
