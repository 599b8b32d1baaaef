"""An engine of the tests, which they may kill, freeze, fill up and cut off. It needs root on Linux."""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from engine import debian
from engine.ping import answers

DISK_BYTES = 2 << 30
READY_SECONDS = 30
HOLDER = Path(__file__).with_name("holder.py")


class EngineFailed(Exception):
    """The engine of the tests failed; the message ends with the last lines of its log."""


def until(what: str, condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for `condition`. Raise EngineFailed after a while."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise EngineFailed(f"waited {seconds} s in vain: {what}")
        time.sleep(0.01)


class Dockerd:
    """Use as a context manager; it enters with the engine answering.

    Containers, images and volumes survive `kill` and `start`. Nothing outlives the block,
    nor this process if it is killed.
    """

    def __init__(self, *, disk_bytes: int = DISK_BYTES, live_restore: bool = False) -> None:
        self.disk_bytes = disk_bytes
        self.live_restore = live_restore

    @property
    def host(self) -> str:
        return f"unix://{self.socket}"

    def __enter__(self) -> "Dockerd":
        with contextlib.ExitStack() as stack:
            lock = stack.enter_context(one_per_network())
            self.folder = Path(tempfile.mkdtemp(prefix="nkbed"))  # short: paths of sockets have at most 107 bytes
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self.socket = self.folder / "docker.sock"
            (self.folder / "config.json").write_text("{}")  # not the system's
            self._away = self.folder / "docker.sock.away"
            self._log = stack.enter_context((self.folder / "log").open("a+"))
            self._holder = stack.enter_context(self._hold(lock))
            self.start()
            stack.callback(self.thaw)  # a stopped process does not end
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def _hold(self, lock: IO[str]) -> Iterator[subprocess.Popen[str]]:
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
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
            env={**os.environ, "PATH": debian.PATH},
            pass_fds=[lock.fileno()],  # so that the lock lasts until the holder is gone, too
        ) as process:  # leaving closes its stdin and waits for it
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise EngineFailed(f"this system does not let us make namespaces and mount: {self.log()}")
            yield process

    @property
    def _cgroup(self) -> str:
        return f"nodekit-test-{self.folder.name}"

    # Start and end.

    def start(self, *, live_restore: bool | None = None) -> None:
        """Start the engine if it does not run, and wait until it answers."""
        if live_restore is not None:
            self.live_restore = live_restore
        if self.running:
            return
        for stale in ("pid", "docker.sock", "exec/containerd/containerd.pid"):  # of a killed engine
            (self.folder / stale).unlink(missing_ok=True)
        self._tell_holder(self._command())
        until(f"the engine answers; {self.log()}", self._answers_or_ended, READY_SECONDS)
        if not self.running:
            raise EngineFailed(f"the engine ended at its start: {self.log()}")

    def _tell_holder(self, command: list[str]) -> None:
        """Tell the holder to start a command. It answers when that is done."""
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        print(json.dumps(command), file=self._holder.stdin, flush=True)
        if self._holder.stdout.readline() != "started\n":
            raise EngineFailed(f"the holder of our engine ended: {self.log()}")

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
        return bool(self.pids("dockerd"))

    def kill(self) -> None:
        """`kill -9`: containers run on, without their published ports."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Stop the engine as the system would: containers stop with it, unless `live_restore` is on."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        self.thaw()
        self._signal(number, "dockerd")
        until("the engine and its containerd end", lambda: not self.pids("dockerd", "containerd"), READY_SECONDS)

    def restart(self, *, live_restore: bool | None = None) -> None:
        """`kill`, then `start`."""
        self.kill()
        self.start(live_restore=live_restore)

    def repair(self) -> None:
        """Restore the engine after a test: it runs, answers, has free space, and `live_restore` is off."""
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
        until("all threads of the engine stop", lambda: all(map(_is_stopped, self.pids("dockerd", "containerd"))))
        try:
            yield
        finally:
            self.thaw()

    def thaw(self) -> None:
        self._signal(signal.SIGCONT, "dockerd", "containerd")

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
        """Return the free bytes of the engine's disk."""
        disk = os.statvfs(self._data)
        return disk.f_bavail * disk.f_frsize

    @contextlib.contextmanager
    def full_disk(self, *, free_bytes: int = 0) -> Iterator[None]:
        """Leave only this much space on the engine's disk by shrinking it, which takes no time and no memory."""
        self._resize(lambda: self.disk_bytes - self.free_bytes + free_bytes)
        try:
            yield
        finally:
            self.free_disk()

    def free_disk(self) -> None:
        self._resize(lambda: self.disk_bytes)

    def _resize(self, size: Callable[[], int]) -> None:
        """Resize the disk. Retry if the engine writes meanwhile: a disk is not smaller than its content."""

        def resized() -> bool:
            command = ["mount", "-o", f"remount,size={size()}", f"{self.folder}/data"]
            return not subprocess.run(
                [*self._enter_namespaces(), *command], capture_output=True, check=False
            ).returncode

        until("the engine's disk takes another size", resized)

    # Names: whom the engine's machine asks for them.

    @contextlib.contextmanager
    def name_server(self, address: str) -> Iterator[None]:
        file = self.folder / "resolv.conf"
        file.write_text(f"nameserver {address}\n")
        inside = [*self._enter_namespaces(), "sh", "-c"]
        subprocess.run([*inside, f"mount --bind {file} /etc/resolv.conf"], check=True)
        try:
            yield
        finally:
            subprocess.run([*inside, "umount /etc/resolv.conf"], check=True)

    # Looking in.

    def pids(self, *names: str) -> list[int]:
        """Return processes that see the engine's mounts, all or by name: itself, containerd, shims, proxies."""
        mounts = os.readlink(f"/proc/{self._holder.pid}/ns/mnt")
        return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if _is_one(pid, mounts, names)]

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


def _is_stopped(pid: int) -> bool:
    states = (path.read_text().rpartition(") ")[2][0] for path in Path(f"/proc/{pid}/task").glob("*/stat"))
    return all(state == "T" for state in states)


@contextlib.contextmanager
def one_per_network() -> Iterator[IO[str]]:
    """Make sure that this network namespace has one engine: two would remove each other's bridge and firewall rules."""
    network = os.readlink("/proc/self/ns/net").strip("net:[]")
    with (Path(tempfile.gettempdir()) / f"nodekit-test-engine-{network}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EngineFailed("another test run has its engine in this network: wait for it to end") from None
        yield file
