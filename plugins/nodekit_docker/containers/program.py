"""The container of one step: begun, given its input, read to its end. It is given up from any point of that."""

import asyncio
import os
import socket
from contextlib import suppress
from threading import Lock
from typing import Any

import anyio

from nodekit_docker.containers.output import Output, Printed
from nodekit_docker.containers.spec import Spec
from nodekit_docker.containers.state import KILLED, SHORT_ID
from nodekit_docker.engine.engine import Engine
from nodekit_docker.engine.errors import EngineRefused

PIECE_BYTES = 64 * 1024


class TooLarge(Exception):
    """It has printed more than it may."""


class Program:
    """A container that is there for one step."""

    def __init__(self, engine: Engine, spec: Spec, *, owner: str) -> None:
        self.name = spec.name
        self.id = ""
        """The engine's; empty: it is not known yet."""
        self._engine = engine
        self._body = spec.body(owner=owner, restarts=0)
        self._lock = Lock()
        self._wanted = True
        self._socket: socket.socket | None = None

    @property
    def short_id(self) -> str:
        return self.id[:SHORT_ID]

    async def run(self, given: bytes, max_bytes: int) -> Printed:
        """Its whole life: `given` on standard input, and what it printed. Raises `TooLarge`, and the engine's errors.

        Whoever calls it gives it up afterwards, whatever came of it, and removes the container by its name.
        """
        self.id = await self._engine.call(self._begin)
        output = Output(max_bytes)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._feed, given)
            while not output.too_large and (data := await self._received()):
                output.add(data)
            tasks.cancel_scope.cancel()
        if output.too_large:
            raise TooLarge
        return output.printed(await self._exit_code())

    async def _exit_code(self) -> int:
        """Once it has ended; as if it was killed, where somebody has removed it."""
        try:
            ended = await self._engine.wait(lambda api: api.wait(self.id))
        except EngineRefused as error:
            if error.status != 404:
                raise
            return KILLED
        return int(ended["StatusCode"])

    def give_up(self) -> None:
        """It is of no more use: a call that makes it right now removes it again."""
        with self._lock:
            self._wanted = False
            if self._socket is not None:
                self._socket.close()

    # -- in a thread ------------------------------------------------------------------------------

    def _begin(self, api: Any) -> str:
        """Make it, listen to it, start it: in this order, so that nothing of what it prints is missed."""
        id = str(api.create_container_from_config(self._body, self.name)["Id"])
        if self._wanted and self._holds(_attached(api, id)):
            api.start(id)
        if not self._wanted:  # who gave it up has looked for it before it was there
            api.remove_container(id, force=True, v=True)
        return id

    def _holds(self, connection: socket.socket) -> bool:
        with self._lock:
            if self._wanted:
                self._socket = connection
            else:
                connection.close()
            return self._wanted

    # -- on the event loop ------------------------------------------------------------------------

    async def _feed(self, given: bytes) -> None:
        assert self._socket is not None
        with suppress(OSError):  # it does not read, or has ended: what it printed says what came of that
            await asyncio.get_running_loop().sock_sendall(self._socket, given)
            self._socket.shutdown(socket.SHUT_WR)

    async def _received(self) -> bytes:
        """The next bytes; none: no more come."""
        assert self._socket is not None
        try:
            return await asyncio.get_running_loop().sock_recv(self._socket, PIECE_BYTES)
        except OSError:  # reset, where it has ended before it read all: why it has, the engine says
            return b""


def _attached(api: Any, id: str) -> socket.socket:
    """A connection to its standard streams. The client's own goes through buffers that block."""
    streams = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
    theirs = api.attach_socket(id, params=streams)
    connection = socket.socket(fileno=os.dup(theirs.fileno()))
    connection.setblocking(False)
    theirs._response.close()
    return connection
