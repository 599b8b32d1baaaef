"""The engine of shared stores as a process that a test can kill and start again."""

import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

from nodekit.testing.shared_store.remote import SharedServerStore

_START_SECONDS = 30.0


class SharedServer:
    """An engine in a process of its own, with jobs in an SQLite file. It runs while it is entered.

    A cluster whose engine dies::

        with SharedServer(tmp_path / "jobs.db") as server:
            async with make_node(store=server.store()) as node:
                server.kill()
                server.start()

    Jobs survive `kill`, since their file does; sessions and claims do not. The address stays the same.
    """

    def __init__(self, path: Path, *, lease_seconds: float = 1.0, port: int = 0, read_only: bool = False) -> None:
        """`lease_seconds` is the time after which others take over the jobs of a node that died."""
        self.path, self.lease_seconds = path, lease_seconds
        self._port, self._read_only = port, read_only
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, known once it has started."""
        return "127.0.0.1", self._port

    @property
    def pid(self) -> int:
        """Number of the process, for signals such as SIGSTOP."""
        return self._running.pid

    @property
    def _running(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None, "the engine does not run; call start()"
        return self._process

    def store(self) -> SharedServerStore:
        """Return a store on the engine's data, for one node."""
        return SharedServerStore(*self.address)

    def start(self) -> None:
        """Start the engine, on the port that it had before, and return when clients can connect."""
        assert self._process is None, "the engine runs already"
        command = [sys.executable, "-m", "nodekit.testing.shared_store", "--file", str(self.path)]
        command += ["--until-eof", "--port", str(self._port), "--lease-seconds", str(self.lease_seconds)]
        self._process = subprocess.Popen(  # noqa: S603 - this program
            command + ["--read-only"] * self._read_only, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        try:
            self._port = int(self._line().rpartition(":")[2])
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """Kill the engine (SIGKILL), as a crash does. A second call does nothing."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the engine (SIGTERM). It finishes what it writes."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)  # it may have been stopped
            try:
                process.wait(_START_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def read_only(self, on: bool) -> None:
        """Make the engine refuse writes, or accept them again."""
        self._read_only = on
        self._running.send_signal(signal.SIGUSR1 if on else signal.SIGUSR2)
        self._line()

    def clear(self) -> None:
        """Delete everything: jobs, records, sessions, claims and announcements. This is faster than another engine."""
        self._running.send_signal(signal.SIGHUP)
        self._line()

    def _line(self) -> str:
        """Return the next line of what the engine prints."""
        output = self._running.stdout
        assert output is not None
        if not select.select([output], [], [], _START_SECONDS)[0] or not (line := output.readline()):
            raise RuntimeError(f"the engine on {self.path} did not start or ended; see its standard error")
        return line.decode().strip()
