"""The container of one step: started, fed with its input, and read to its end. It can be given up at any point."""

import asyncio
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from threading import Lock
from typing import Any

import anyio

from nodekit_docker.containers.output import Output, Printed
from nodekit_docker.containers.state import KILLED, SHORT_ID
from nodekit_docker.engine.engine import Engine
from nodekit_docker.engine.errors import EngineRefused

PIECE_BYTES = 64 * 1024


class TooLarge(Exception):
    """The program has printed more than it may."""


class Program:
    """A container for one step."""

    def __init__(self, engine: Engine, name: str, body: Mapping[str, Any]) -> None:
        """`body` is the body of the engine's call that makes the container."""
        self.name = name
        self.id = ""
        """The engine's id; empty until it is known."""
        self._engine = engine
        self._body = dict(body)
        self._lock = Lock()
        self._wanted = True
        self._socket: socket.socket | None = None

    @property
    def short_id(self) -> str:
        return self.id[:SHORT_ID]

    async def run(self, given: bytes, max_bytes: int) -> Printed:
        """Run the program with `given` on standard input, and return its output.

        The caller must call `give_up` afterwards, however this ends, and then remove the container if its id is known.
        Raises `TooLarge` and the engine's errors.
        """
        await self._engine.call(self._begin)
        output = Output(max_bytes)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._feed, given)
            while not output.too_large and (data := await self._received()):
                output.add(data)
                await anyio.lowlevel.checkpoint()  # receiving what is there already gives nobody else a turn
            tasks.cancel_scope.cancel()
        if output.too_large:
            raise TooLarge
        return output.printed(await self._exit_code())

    async def _exit_code(self) -> int:
        """Wait for its end and return the exit code. Return `KILLED` if somebody has removed it."""
        try:
            ended = await self._engine.wait(lambda api: api.wait(self.id))
        except EngineRefused as error:
            if error.status != 404:
                raise
            return KILLED
        return int(ended["StatusCode"])

    def give_up(self) -> None:
        """Give the container up. A call that is making it right now removes it again."""
        with self._lock:
            self._wanted = False
            if self._socket is not None:
                self._socket.close()

    # -- in a thread ------------------------------------------------------------------------------

    def _begin(self, api: Any) -> None:
        """Make the container, attach to it and start it, in this order, so that none of its output is missed."""
        self.id = str(api.create_container_from_config(self._body, self.name)["Id"])
        if self._wanted and self._holds(_attached(api, self.id)):
            api.start(self.id)
        if not self._wanted:  # the caller of `give_up` looked for it before it existed
            api.remove_container(self.id, force=True, v=True)

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
        with suppress(OSError):  # it does not read its input, or has ended: its output shows the result
            await asyncio.get_running_loop().sock_sendall(self._socket, given)
            self._socket.shutdown(socket.SHUT_WR)

    async def _received(self) -> bytes:
        """Receive the next bytes; empty at the end."""
        assert self._socket is not None
        try:
            return await asyncio.get_running_loop().sock_recv(self._socket, PIECE_BYTES)
        except OSError:  # the connection is reset if it ends before it has read all; the engine knows why it ended
            return b""


def _attached(api: Any, id: str) -> socket.socket:
    """Open a connection to its standard streams. The client's own connection uses buffers that block."""
    streams = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
    theirs = api.attach_socket(id, params=streams)
    connection = socket.socket(fileno=os.dup(theirs.fileno()))
    connection.setblocking(False)
    theirs._response.close()
    return connection
