"""One operating system process with its group: its start, watch, output and end."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import anyio

from nodekit import NodekitError
from nodekit_process._output import Output

LAUNCHER = Path(__file__).with_name("_launcher.py")
KILL_SECONDS = 5.0
"""Time a killed process may take to be gone. One that hangs in the kernel takes longer and is given up."""
POLL_SECONDS = 0.05
"""Interval of checks for the end of the process if the kernel has no descriptors for processes."""
_PIPE_BYTES = 1 << 16
_READS_AT_EXIT = 16


class Process:
    """A running process, the leader of its own session and group. `exited` is set once it and its group are gone.

    It is driven by callbacks of the event loop, not by a task, which could be cancelled before the process has ended.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str], folder: Path, output: Output) -> None:
        """Start the process. Call this in the thread of the event loop: the process dies when that thread ends."""
        names = "=".join(env)  # no name contains this character
        launcher = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), names, *command]
        try:
            self._popen = subprocess.Popen(  # noqa: S603 - the operator's own command, without a shell
                launcher,
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise NodekitError(f"its process could not be started: {error}") from error
        self.pid = self._popen.pid
        self.exited = anyio.Event()
        self._output = output
        self._loop = asyncio.get_running_loop()
        self._pidfd: int | None = None
        self._watch_output()
        self._watch_exit()

    @property
    def exit_code(self) -> int | None:
        """The exit code; negative if a signal killed the process; None while it runs."""
        return self._popen.returncode

    @property
    def ending(self) -> str:
        """The way it ended: ``exited with code 3``, ``was killed by SIGKILL``."""
        code = self._popen.returncode
        if code is None:
            return "is running"
        if code >= 0:
            return f"exited with code {code}"
        with suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
        return f"was killed by signal {-code}"

    async def end(self, stop_seconds: float) -> None:
        """End the process and its group: first SIGTERM, and after `stop_seconds` SIGKILL for what is left."""
        for number, seconds in ((signal.SIGTERM, stop_seconds), (signal.SIGKILL, KILL_SECONDS)):
            if not self.exited.is_set():
                self._signal_group(number)
                with anyio.move_on_after(seconds):
                    await self.exited.wait()
        self._close()

    def _signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the group. Its number is safe to use while the leader has not been reaped."""
        if self._popen.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    # -- watching ---------------------------------------------------------------------------------

    def _watch_exit(self) -> None:
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except (AttributeError, OSError):
            self._loop.call_later(POLL_SECONDS, self._poll)
        else:
            self._loop.add_reader(self._pidfd, self._ended)

    def _poll(self) -> None:
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            self._loop.call_later(POLL_SECONDS, self._poll)
        else:
            self._ended()

    def _ended(self) -> None:
        self._signal_group(signal.SIGKILL)  # for children that outlived it; must come before it is reaped
        self._popen.wait()
        for _ in range(_READS_AT_EXIT):
            if not self._read():
                break
        self._output.end()
        self._close()
        self.exited.set()

    def _watch_output(self) -> None:
        assert self._popen.stdout is not None
        os.set_blocking(self._popen.stdout.fileno(), False)
        self._loop.add_reader(self._popen.stdout.fileno(), self._read)

    def _read(self) -> bool:
        """Read a piece of output. Return False if there was nothing to read."""
        pipe = self._popen.stdout
        if pipe is None or pipe.closed:
            return False
        piece = pipe.read(_PIPE_BYTES)
        if piece:
            self._output.feed(piece)
        elif piece is not None:  # the end
            self._loop.remove_reader(pipe.fileno())
            pipe.close()
        return bool(piece)

    def _close(self) -> None:
        pipe = self._popen.stdout
        if pipe is not None and not pipe.closed:
            self._loop.remove_reader(pipe.fileno())
            pipe.close()
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
