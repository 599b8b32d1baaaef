"""The node's side of the fork server."""

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import anyio

from nodekit_process.supervisor.supervisor import Order
from nodekit_remote import printable_line

logger = logging.getLogger("nodekit.process")

PROGRAM = Path(__file__).parent / "supervisor" / "__main__.py"
END_SECONDS = 5.0
POLL_SECONDS = 0.01
PIECE_BYTES = 1 << 14


class ForkServer:
    """The process that starts the containers of a runner. It is started with the first one, and again if it died."""

    def __init__(self) -> None:
        self._popen: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._complaints: Complaints | None = None

    def start(self, order: Order, descriptors: Sequence[int]) -> None:
        """Have a supervisor started; it gets the descriptors. Raise `OSError` if it cannot be.

        Call this in the thread of the event loop: everything that was started ends when that thread ends.
        """
        with _file(order) as file:
            given = [file.fileno(), *descriptors]
            if self._channel is None or not self._send(given):
                self._begin()
                if not self._send(given):
                    raise BrokenPipeError("its fork server ended at once")

    async def aclose(self) -> None:
        """End the fork server, and with it everything that is left."""
        popen = self._popen
        self._close()
        if popen is None:
            return
        with anyio.CancelScope(shield=True), anyio.move_on_after(END_SECONDS):
            while popen.poll() is None:  # noqa: ASYNC110 - it takes a moment
                await anyio.sleep(POLL_SECONDS)
        if popen.returncode is None:
            popen.kill()
            popen.wait()

    def _send(self, descriptors: Sequence[int]) -> bool:
        """Send an order. Return False if the fork server is gone."""
        assert self._channel is not None
        try:
            socket.send_fds(self._channel, [b"!"], descriptors)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def _begin(self) -> None:
        self._close()
        mine, its = socket.socketpair()
        complaints = Complaints()
        with its, complaints.its_end as its_error:
            mine.setblocking(False)
            program = [sys.executable, "-I", "-S", str(PROGRAM), str(its.fileno()), str(os.getpid())]
            try:
                self._popen = subprocess.Popen(  # noqa: S603
                    program,
                    env={},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=its_error,  # that of the node may be blocked
                    pass_fds=[its.fileno()],
                    start_new_session=True,
                )
            except BaseException:
                mine.close()
                complaints.close()
                raise
        self._channel, self._complaints = mine, complaints

    def _close(self) -> None:
        """Close the channel; a fork server that lives ends then."""
        if self._channel is not None:
            self._channel.close()
        if self._popen is not None:
            self._popen.poll()
        if self._complaints is not None:
            self._complaints.close()
        self._channel, self._popen, self._complaints = None, None, None


class Complaints:
    """The standard error of a fork server and its supervisors, a pipe whose lines go to the log."""

    def __init__(self) -> None:
        pipe, its = os.pipe()
        os.set_blocking(pipe, False)
        self._pipe = open(pipe, "rb", buffering=0)  # noqa: SIM115 - `close` closes it
        self.its_end: IO[bytes] = open(its, "wb", buffering=0)  # noqa: SIM115 - the caller closes it
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pipe, self._read)

    def close(self) -> None:
        """Log what is left, and close the pipe."""
        if not self._pipe.closed:
            self._read()
        if not self._pipe.closed:
            self._loop.remove_reader(self._pipe.fileno())
            self._pipe.close()

    def _read(self) -> None:
        text = self._pipe.read(PIECE_BYTES)
        if text == b"":
            self._loop.remove_reader(self._pipe.fileno())
            self._pipe.close()
        for line in (text or b"").splitlines():
            logger.warning("the fork server: %s", printable_line(line))


def _file(order: Order) -> IO[Any]:
    """Return a file in memory with the order, which may be larger than what a socket takes at once."""
    file: IO[Any] = os.fdopen(os.memfd_create("order"), "w+b") if hasattr(os, "memfd_create") else _unnamed()
    file.write(json.dumps(order).encode())
    file.flush()
    return file


def _unnamed() -> IO[Any]:
    return tempfile.TemporaryFile()
