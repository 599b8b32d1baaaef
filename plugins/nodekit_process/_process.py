"""One command with all processes that it starts, under a supervisor: its start, watch, output and end."""

import asyncio
import os
import signal
import socket
from contextlib import suppress

import anyio

from nodekit import NodekitError
from nodekit_process._fork_server import ForkServer
from nodekit_process._output import Output, PipeReader
from nodekit_process.supervisor.supervisor import TERMINATE, Order

KILL_SECONDS = 5.0
"""Time that killed processes may take to be gone. One that hangs in the kernel takes longer and is given up."""


class Process:
    """A running command, the leader of its own session and group.

    `begun` is set once its pid is known, or it failed to start. `exited` is set once it and all its descendants are
    gone. It is driven by callbacks of the event loop, not by a task, which could be cancelled before it has ended.
    """

    def __init__(
        self, fork_server: ForkServer, order: Order, output: Output, listener: socket.socket | None = None
    ) -> None:
        """Start the command, with a listening socket if there is one. Raise `NodekitError` if it cannot be."""
        self.pid = self.supervisor = 0
        self.exit_code: int | None = None
        """The exit code; negative if a signal killed the command; None while it runs, or if it is not known."""
        self.begun, self.exited = anyio.Event(), anyio.Event()
        self._loop = asyncio.get_running_loop()
        self._news = b""
        self._control, its_control = socket.socketpair()
        pipe, its_pipe = os.pipe()
        try:
            given = [its_control.fileno(), its_pipe, *([] if listener is None else [listener.fileno()])]
            fork_server.start(order, given)
        except (OSError, ValueError) as error:
            self._control.close()
            os.close(pipe)
            raise NodekitError(f"its process could not be started: {error}") from error
        finally:
            its_control.close()
            os.close(its_pipe)
        self._control.setblocking(False)
        self._loop.add_reader(self._control.fileno(), self._hear)
        self._output = PipeReader(open(pipe, "rb", buffering=0), output)  # noqa: SIM115 - it closes the pipe

    @property
    def ending(self) -> str:
        """The way it ended: ``exited with code 3``, ``was killed by SIGKILL``."""
        code = self.exit_code
        if not self.exited.is_set():
            return "is running"
        if code is None:
            return "was killed because its supervisor ended"
        if code >= 0:
            return f"exited with code {code}"
        with suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
        return f"was killed by signal {-code}"

    async def end(self, stop_seconds: float) -> None:
        """End all its processes: first by SIGTERM, and after `stop_seconds` by SIGKILL."""
        for tell, seconds in ((self._terminate, stop_seconds), (self._kill, KILL_SECONDS)):
            if not self.exited.is_set():
                with suppress(OSError):
                    tell()
                with anyio.move_on_after(seconds):
                    await self.exited.wait()
        self._close()

    def _terminate(self) -> None:
        self._control.send(TERMINATE)

    def _kill(self) -> None:
        self._control.shutdown(socket.SHUT_WR)

    # -- watching ---------------------------------------------------------------------------------

    def _hear(self) -> None:
        """Read what the supervisor reports. Its connection ends when nothing of the container is left."""
        try:
            piece = self._control.recv(1 << 10)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        *lines, self._news = (self._news + piece).split(b"\n")
        for line in lines:
            word, *numbers = line.decode().split()
            if word == "started":
                self.pid, self.supervisor = map(int, numbers)
                self.begun.set()
            else:
                self.exit_code = os.waitstatus_to_exitcode(int(numbers[0]))
        if not piece:
            self._ended()

    def _ended(self) -> None:
        self._output.finish()
        self._close()
        self.exited.set()
        self.begun.set()

    def _close(self) -> None:
        self._output.close()
        if self._control.fileno() >= 0:
            self._loop.remove_reader(self._control.fileno())
            self._control.close()
