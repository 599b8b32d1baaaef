"""An engine of our own, which tests may kill, freeze, fill up and cut off. Needs root on Linux."""

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from engine import debian

DISK_BYTES = 2 << 30
READY_SECONDS = 30
HOLDER = Path(__file__).with_name("holder.py")


class EngineFailed(Exception):
    """Our engine did not do as it was told; the message ends with the last lines of its log."""


def until(what: str, condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for `condition`. Raises EngineFailed after a while."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise EngineFailed(f"waited {seconds} s in vain: {what}")
        time.sleep(0.01)


class Dockerd:
    """Use as a context manager; it enters with the engine answering.

    Containers, images and volumes survive `kill` and `start`. Nothing outlives the block, nor this process if it is killed.
    """

    def __init__(self, *, disk_bytes: int = DISK_BYTES, live_restore: bool = False) -> None:
        self.disk_bytes = disk_bytes
        self.live_restore = live_restore

    @property
    def host(self) -> str:
        return f"unix://{self.socket}"

    def __enter__(self) -> "Dockerd":
        with contextlib.ExitStack() as stack:
            stack.enter_context(one_per_network())
            self.folder = Path(tempfile.mkdtemp(prefix="nkbed"))  # short: paths of sockets have at most 107 bytes
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self.socket = self.folder / "docker.sock"
            (self.folder / "config.json").write_text("{}")  # not the system's
            self._away = self.folder / "docker.sock.away"
            self._log = stack.enter_context((self.folder / "log").open("a+"))
            self._holder = stack.enter_context(self._hold())
            self._process: subprocess.Popen[bytes] | None = None
            self.start()
            stack.callback(self._let_go)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def _hold(self) -> Iterator[subprocess.Popen[str]]:
        command = [
            "unshare",
            "--mount",
            "--propagation=private",
            "--pid",
            "--fork",
            "--mount-proc",
            sys.executable,
            "-IS",
        ]
        command += [str(HOLDER), str(self.folder), str(self.disk_bytes), self._cgroup]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, start_new_session=True
        ) as process:  # leaving closes its stdin and waits for it
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise EngineFailed(f"this system does not let us make namespaces and mount: {self.log()}")
            yield process

    @property
    def _cgroup(self) -> str:
        return f"nodekit-test-{self.folder.name}"

    def _let_go(self) -> None:
        """The holder ends everything; who waits for the engine waits for it to be dead, not stopped."""
        self.thaw()
        assert self._holder.stdin is not None
        self._holder.stdin.close()
        if self._process is not None:
            self._process.wait()

    # Start and end.

    def start(self, *, live_restore: bool | None = None) -> None:
        """Start it if it does not run, and wait until it answers."""
        if live_restore is not None:
            self.live_restore = live_restore
        if self.running:
            return
        for stale in ("pid", "docker.sock", "exec/containerd/containerd.pid"):  # of one that was killed
            (self.folder / stale).unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [*self._enter_namespaces(), *self._command()],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            env={**os.environ, "PATH": debian.PATH},
        )
        until(f"the engine answers; {self.log()}", self._answers_or_ended, READY_SECONDS)
        if not self.running:
            raise EngineFailed(f"the engine ended at its start: {self.log()}")

    def _enter_namespaces(self) -> list[str]:
        namespaces = f"/proc/{self._holder.pid}/ns"
        return ["nsenter", f"--mount={namespaces}/mnt", f"--pid={namespaces}/pid_for_children", "--"]

    def _command(self) -> list[str]:
        paths = [f"--data-root={self.folder}/data", f"--exec-root={self.folder}/exec", f"--pidfile={self.folder}/pid"]
        cgroups = ["--exec-opt=native.cgroupdriver=cgroupfs", f"--cgroup-parent=/{self._cgroup}"]
        live = ["--live-restore"] if self.live_restore else []
        return ["dockerd", f"--host={self.host}", f"--config-file={self.folder}/config.json", *paths, *cgroups, *live]

    def _answers_or_ended(self) -> bool:
        return not self.running or answers(self.host)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """`kill -9`: containers run on, without their published ports."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """As the system's service manager would: it stops its containers, unless `live_restore`."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self.thaw()
        self._signal(number, "dockerd")
        self._process.wait(READY_SECONDS)
        until("containerd ends with its engine", lambda: not self.pids("dockerd", "containerd"))

    def restart(self, *, live_restore: bool | None = None) -> None:
        """`kill`, then `start`."""
        self.kill()
        self.start(live_restore=live_restore)

    def repair(self) -> None:
        """As it was at the start, whatever a test did: it runs, answers, has room, and has live restore off."""
        self.free_disk()
        self.show_socket()
        self.thaw()
        if self.live_restore:
            self.kill()
        self.start(live_restore=False)

    # Frozen: connections are accepted, and nothing is answered.

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        self._signal(signal.SIGSTOP, "dockerd", "containerd")
        try:
            yield
        finally:
            self.thaw()

    def thaw(self) -> None:
        self._signal(signal.SIGCONT, "dockerd", "containerd", "nsenter")  # nsenter stops with what it started

    # Away: whoever connects anew finds no socket; connections that exist stay.

    @contextlib.contextmanager
    def without_socket(self) -> Iterator[None]:
        self.socket.rename(self._away)
        try:
            yield
        finally:
            self.show_socket()

    def show_socket(self) -> None:
        if self._away.exists():
            self._away.rename(self.socket)

    # Full: the disk of the engine.

    @property
    def _data(self) -> Path:
        return Path(f"/proc/{self._holder.pid}/root{self.folder}/data")

    @property
    def free_bytes(self) -> int:
        """What the engine's disk has left."""
        disk = os.statvfs(self._data)
        return disk.f_bavail * disk.f_frsize

    @contextlib.contextmanager
    def full_disk(self, *, free_bytes: int = 0) -> Iterator[None]:
        """Only so much is left on the engine's disk."""
        with (self._data / "filler").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(self.free_bytes - free_bytes, 1))
        try:
            yield
        finally:
            self.free_disk()

    def free_disk(self) -> None:
        (self._data / "filler").unlink(missing_ok=True)

    # Looking in.

    def pids(self, *names: str) -> list[int]:
        """Processes (all, or those so named) that see the engine's mounts: itself, containerd, shims, proxies."""
        mounts = os.readlink(f"/proc/{self._holder.pid}/ns/mnt")
        return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if _is_one(pid, mounts, names)]

    def kill_program(self, container: str) -> None:
        """`kill -9` of a container's first process, from outside: the engine is not told."""
        self._in_namespaces("kill", "-9", self._in_namespaces(*self._cli("inspect", "-f", "{{.State.Pid}}", container)))

    def _cli(self, *arguments: str) -> list[str]:
        return ["docker", "-H", self.host, *arguments]

    def _in_namespaces(self, *command: str) -> str:
        done = subprocess.run([*self._enter_namespaces(), *command], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def log(self, lines: int = 15) -> str:
        return "\n" + "\n".join((self.folder / "log").read_text(errors="replace").splitlines()[-lines:])

    def _signal(self, number: signal.Signals, *names: str) -> None:
        for pid in self.pids(*names):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def _is_one(pid: int, mounts: str, names: tuple[str, ...]) -> bool:
    with contextlib.suppress(OSError):  # it may end while we look
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        return (not names or name in names) and os.readlink(f"/proc/{pid}/ns/mnt") == mounts
    return False


def answers(host: str) -> bool:
    """Whether an engine does so at `host`. Not by docker-py, which leaves sockets open that could not be connected."""
    scheme, _, place = host.partition("://")
    with contextlib.suppress(OSError), contextlib.closing(_connection(scheme, place)) as connection:
        connection.settimeout(5)
        connection.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
        return connection.recv(4096).startswith(b"HTTP/1")
    return False


def _connection(scheme: str, place: str) -> socket.socket:
    if scheme != "unix":
        name, _, port = place.rpartition(":")
        return socket.create_connection((name, int(port)), timeout=5)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(place)
    except OSError:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def one_per_network() -> Iterator[IO[str]]:
    """Engines of one network namespace take each other's bridge and firewall rules away; so there is one."""
    network = os.readlink("/proc/self/ns/net").strip("net:[]")
    with (Path(tempfile.gettempdir()) / f"nodekit-test-engine-{network}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EngineFailed("another test run has its engine here: wait for it to end") from None
        yield file
