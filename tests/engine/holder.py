"""Holds what an engine of the tests mounts, and ends all of it when stdin closes: also when the tests were killed.

    unshare --mount --propagation private --pid --fork --mount-proc python holder.py FOLDER BYTES CGROUP

It is process 1 of its own PID namespace. The engine, containerd, shims and containers live in there, so that the kernel
ends them with it. It reads a command per line, as a JSON list, starts it, and answers "started". The engine's data lies
on a tmpfs of BYTES, which survives the engine but not the holder.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ENGINES_OWN = ("/etc/docker", "/run/containerd", "/run/docker")  # any engine writes to these, wherever its data lies


def mount(folder: Path, size: str) -> None:
    data = folder / "data"
    data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=711", "nodekit-test", str(data)], check=True)
    for path in ENGINES_OWN:
        Path(path).mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=755", "nodekit-test", path], check=True)


def unmount(folder: Path) -> None:
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for path in reversed(mounted):
        if path.startswith(f"{folder}/"):
            subprocess.run(["umount", "-l", path], check=False)


def remove_cgroups(name: str) -> None:
    for hierarchy in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*/")):
        for path, _, _ in os.walk(hierarchy / name, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(path)


def wait_for_name(pid: int) -> None:
    """Wait until a started program has its own name: for a moment it may still have that of this one."""
    with contextlib.suppress(OSError):  # it has ended
        while Path(f"/proc/{pid}/comm").read_text() == Path("/proc/self/comm").read_text():
            time.sleep(0.001)


def main(folder: Path, size: str, cgroup: str) -> None:
    mount(folder, size)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # orphans of the namespace become children of this process
    print("ready", flush=True)
    for line in sys.stdin:
        started = subprocess.Popen(
            json.loads(line), stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True
        )
        wait_for_name(started.pid)
        print("started", flush=True)
    os.kill(-1, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(-1, 0)  # returns when there are no children left, as their ends are ignored
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    unmount(folder)
    remove_cgroups(cgroup)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
