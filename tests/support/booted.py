"""A systemd as process 1 of namespaces, with the unit of `deploy/`. It needs root on Linux, and systemd."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from paths import ROOT

SYSTEMD = "/lib/systemd/systemd"
USER_ID = 4242
SECONDS = 120.0
TARGETS = ("sysinit", "basic", "shutdown", "network-online", "umount", "final", "multi-user", "nodekit-test")
"""Units that others name; these do nothing."""

# What systemd would change for the whole machine at its start is read-only: limits in /proc/sys.
BOOT = """
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -t tmpfs tmpfs /run
umount -l /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /var/lib
mount -t tmpfs tmpfs /var/log
mount --bind {folder}/passwd /etc/passwd
mount --bind {folder}/group /etc/group
mount -t tmpfs tmpfs /opt
mkdir /opt/etc
mount --bind {folder}/etc /opt/etc
export container=nodekit-test SYSTEMD_UNIT_PATH=/opt/etc/units
export SYSTEMD_PROC_CMDLINE=systemd.unified_cgroup_hierarchy=1
exec {systemd} --system --unit=nodekit-test.target --log-target=console --show-status=0
"""
DROP_IN = """
[Service]
ExecStart=
ExecStart={python} -m nodekit.cli serve /opt/etc/node.toml
ProtectHome=tmpfs
BindReadOnlyPaths={paths}
StandardOutput=append:/opt/etc/log
StandardError=append:/opt/etc/log
RestartSec=100ms
{more}
"""


class NoSystemd(Exception):
    """No systemd can be started here. The message says why."""


class Booted:
    """A running systemd with the unit `nodekit`, whose node file is `etc`/node.toml."""

    def __init__(self, process: int, folder: Path) -> None:
        self.process = process
        self.etc = folder / "etc"

    def run(self, *command: str) -> str:
        """Run a command that must succeed beside systemd, and return its output."""
        done = self.tried(*command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}{self.log}"
        return done.stdout.strip()

    def tried(self, *command: str) -> "subprocess.CompletedProcess[str]":
        entered = ["nsenter", "-t", str(self.process), "-m", "-p", "-C", "-u", "-i", "--", *command]
        return subprocess.run(entered, capture_output=True, text=True, timeout=SECONDS, check=False)

    def shown(self, name: str) -> str:
        """Return a property of the unit."""
        return self.run("systemctl", "show", "-P", name, "nodekit")

    @property
    def log(self) -> str:
        file = self.etc / "log"
        return file.read_text(errors="replace") if file.exists() else ""

    def set_up(self, node_file: str, more: str = "") -> None:
        """Write the node file and further settings of the unit."""
        (self.etc / "node.toml").write_text(node_file, encoding="utf-8")
        paths = dict.fromkeys((sys.base_prefix, sys.prefix, str(ROOT)))
        text = DROP_IN.format(python=sys.executable, paths=" ".join(paths), more=more)
        folder = self.etc / "units" / "nodekit.service.d"
        folder.mkdir(exist_ok=True)
        (folder / "test.conf").write_text(text, encoding="utf-8")
        self.run("systemctl", "daemon-reload")

    @property
    def processes(self) -> list[str]:
        """Process ids of the unit."""
        group = self.shown("ControlGroup")
        return self.run("sh", "-c", f"cat /sys/fs/cgroup{group}/cgroup.procs").split() if group else []


def until(condition: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.05)


@contextmanager
def booted() -> Iterator[Booted]:
    """Start a systemd, and end it with the block. Raise `NoSystemd` if that cannot be done here."""
    control = control_groups()
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="nksd"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        write_files(folder)
        group = control / folder.name
        with suppress_os_error("make a control group"):
            group.mkdir()
        stack.callback(remove, group)
        log = stack.enter_context((folder / "log").open("w+b"))
        namespaces = ["--mount", "--pid", "--cgroup", "--uts", "--ipc", "--fork", "--kill-child=KILL"]
        entering = f"echo $$ > {group}/cgroup.procs && exec setpriv --pdeathsig KILL unshare {' '.join(namespaces)} "
        command = ["sh", "-c", f"{entering} sh {folder}/boot"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        stack.callback(end, process)
        first = first_process(process, folder / "log")
        found = Booted(first, folder)
        until_running(found, process, folder / "log")
        yield found


def control_groups() -> Path:
    """Return the place of the unified hierarchy of control groups."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise NoSystemd("only root on Linux can start a systemd of its own")
    if missing := [name for name in (SYSTEMD, "unshare", "nsenter", "setpriv", "systemctl") if not shutil.which(name)]:
        raise NoSystemd(f"{', '.join(missing)}: not found; install systemd and util-linux")
    if not Path("/etc/machine-id").exists():
        raise NoSystemd("there is no /etc/machine-id, and systemd would make one")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        if kind == "cgroup2" and "ro" not in options.split(","):
            return Path(place)
    raise NoSystemd("there is no control group of version 2 that can be written")


@contextmanager
def suppress_os_error(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NoSystemd(f"this system does not let us {what}: {error}") from error


def write_files(folder: Path) -> None:
    folder.chmod(0o755)
    units = folder / "etc" / "units"
    units.mkdir(parents=True)
    for name in TARGETS:
        (units / f"{name}.target").write_text(f"[Unit]\nDescription={name}\nDefaultDependencies=no\n")
    shutil.copy(ROOT / "deploy" / "nodekit.service", units)
    for name, line in (("passwd", f"nodekit:x:{USER_ID}:{USER_ID}::/:/bin/false"), ("group", f"nodekit:x:{USER_ID}:")):
        (folder / name).write_text(f"{Path('/etc', name).read_text()}{line}\n")
    (folder / "boot").write_text(BOOT.format(folder=folder, systemd=SYSTEMD))


def first_process(process: subprocess.Popen[bytes], log: Path) -> int:
    """Return the id of the process that is 1 in its namespace."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError):
            for child in children.read_text().split():
                if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    return int(child)
        time.sleep(0.05)
    raise NoSystemd(f"systemd did not come up: {log.read_text(errors='replace')[-500:]}")


def until_running(found: Booted, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while found.tried("systemctl", "is-system-running").stdout.strip() not in ("running", "degraded"):
        if process.poll() is not None or time.monotonic() > deadline:
            raise NoSystemd(f"systemd did not come up: {log.read_text(errors='replace')[-500:]}")
        time.sleep(0.05)


def end(process: subprocess.Popen[bytes]) -> None:
    """End systemd; the kernel ends all that is in its namespace."""
    process.send_signal(signal.SIGKILL)
    process.wait()


def remove(group: Path) -> None:
    """Remove a control group with all groups in it, once their processes are gone."""
    deadline = time.monotonic() + 30
    while group.exists() and time.monotonic() < deadline:
        for folder, _, _ in os.walk(group, topdown=False):
            with suppress(OSError):
                os.rmdir(folder)
        time.sleep(0.02)
