"""A Redis server for tests: a process of its own in a temporary folder, which tests may kill, freeze and restart.

It needs the program of Redis, as Debian's package `redis-server` has it, or of Valkey, and nothing of the running
system.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

HOST = "127.0.0.1"
START_SECONDS = 60.0
LEASH = """
"$@" &
pid=$!
echo $pid
if ! read -r _; then
    kill -KILL $pid
    wait $pid
    rm -rf "$FOLDER"
fi
"""
"""Runs the server, and ends it and removes its folder if these tests are killed: its standard input ends with them."""


class NoRedis(Exception):
    """There is no Redis, or it does not start. The message says why, and what to do."""


class RedisServer:
    """A server that runs while it is entered. Its data survive `kill` and `start`."""

    ARGUMENTS: Sequence[str] = ()

    def __init__(self, *settings: str) -> None:
        """`settings` are further lines of its configuration."""
        self._settings = settings
        self.pid = self.tls_port = 0
        self._leash: subprocess.Popen[str] | None = None

    @property
    def address(self) -> tuple[str, int]:
        return HOST, self.port

    @property
    def url(self) -> str:
        return self.url_at(HOST, self.port)

    def url_at(self, host: str, port: int) -> str:
        return f"redis://{host}:{port}/0"

    def __enter__(self) -> Self:
        program = os.environ.get("NODEKIT_TEST_REDIS") or shutil.which("redis-server") or shutil.which("valkey-server")
        if program is None:
            raise NoRedis("redis-server: not found; install it: apt-get install redis-server")
        with ExitStack() as stack:
            self.folder = Path(tempfile.mkdtemp(prefix="nkrd"))
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self.port = self.free_port()
            self._command = [program, str(self._written(self._configuration())), *self.ARGUMENTS]
            stack.callback(self.kill)
            self.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def free_port(self) -> int:
        with socket.socket() as place:
            place.bind((HOST, 0))
            port: int = place.getsockname()[1]
            return port

    def _configuration(self) -> Sequence[str]:
        return (
            f"bind {HOST}",
            f"port {self.port}",
            f"unixsocket {self.folder}/redis.sock",
            f"dir {self.folder}",
            f"logfile {self.folder}/log",
            "appendonly yes",
            "appendfsync always",
            'save ""',
            "maxmemory-policy noeviction",
            "daemonize no",
            "enable-debug-command local",
            *self._settings,
        )

    def _written(self, lines: Sequence[str]) -> Path:
        path = self.folder / "redis.conf"
        path.write_text("\n".join(lines) + "\n")
        return path

    def start(self) -> None:
        """Start it, and return when it takes commands."""
        self._leash = subprocess.Popen(
            ["sh", "-c", LEASH, "sh", *self._command],
            env={**os.environ, "FOLDER": str(self.folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert self._leash.stdout is not None
        self.pid = int(self._leash.stdout.readline())
        if not waited(lambda: self._answers() or not self._runs()) or not self._runs():
            log = self.folder / "log"
            raise NoRedis(f"redis-server did not start: {log.read_text()[-500:] if log.exists() else 'no log'}")

    def _runs(self) -> bool:
        try:
            return "Z" not in Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False

    def _answers(self) -> bool:
        with suppress(OSError):
            return self.call("PING") == b"+PONG\r\n"
        return False

    def call(self, *command: str) -> bytes:
        """Send a command, and return the beginning of its reply."""
        parts: Sequence[bytes] = [part.encode() for part in command]
        frame = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        with socket.create_connection((HOST, self.port), timeout=30) as line:
            line.sendall(frame)
            return line.recv(65536)

    def freeze(self) -> None:
        """Stop the process, as a machine that hangs does, until `thaw`."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End the server as SIGKILL does, and return when it has ended."""
        if self._leash is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._leash.communicate("\n")
            self._leash = None


class SentinelServer(RedisServer):
    """A Sentinel that watches a server alone, under the name `primary`, and is quick to have a replica replace it."""

    ARGUMENTS = ("--sentinel",)

    def __init__(self, primary: RedisServer) -> None:
        super().__init__()
        self._primary = primary

    def _configuration(self) -> Sequence[str]:
        return (
            f"bind {HOST}",
            f"port {self.port}",
            f"dir {self.folder}",
            f"logfile {self.folder}/log",
            "daemonize no",
            f"sentinel monitor primary {HOST} {self._primary.port} 1",
            "sentinel down-after-milliseconds primary 500",
            "sentinel failover-timeout primary 5000",
        )


def waited(holds: Callable[[], bool]) -> bool:
    """Wait until a condition holds; return False if it does not within `START_SECONDS`."""
    end = time.monotonic() + START_SECONDS
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
