"""Containers that try to outlive their node, each in its own way, as programs of the runner `process`."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

MARK = "NODEKIT_TEST_MARK"

SERVER = r"""
import os, signal, socket, sys, time

def serve():
    listener = socket.socket(fileno=3) if "LISTEN_FDS" in os.environ else socket.create_server(
        ("127.0.0.1", int(os.environ["PORT"])))
    while True:
        connection, _ = listener.accept()
        if not os.fork():
            while connection.recv(65536):
                connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            os._exit(0)
        connection.close()

def helper(work):
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(0)
    return pid

def sleep():
    time.sleep(3600)

def ignore_signals():
    for number in range(1, 65):
        if number not in (9, 19, 32, 33):
            try:
                signal.signal(number, signal.SIG_IGN)
            except OSError:
                pass

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
"""

SHAPES: Mapping[str, str] = {
    "plain": "",
    "helper": "helper(sleep)",
    "session": "helper(lambda: (os.setsid(), sleep()))",
    "daemon": "helper(lambda: (os.setsid(), helper(lambda: (os.setsid(), ignore_signals(), sleep()))))",
    "deaf": "ignore_signals(); helper(sleep)",
    "silent": "os.close(1); os.close(2); helper(lambda: (os.setsid(), sleep()))",
    "stopped": "helper(lambda: (os.setsid(), os.kill(os.getpid(), signal.SIGSTOP)))",
    "renamed": """helper(lambda: (os.setsid(), os.execve(sys.executable, [sys.executable, "-ISc",
        "import time; time.sleep(3600)", sys.argv[1]], {})))""",
    "comet": """
def comet():
    os.nice(19)  # other tests run, too
    os.setsid()
    ignore_signals()
    while True:
        if os.fork():
            os._exit(0)
        os.setsid()
helper(comet)
""",
    "breeder": """
def breed(*_):
    for _ in range(20):
        helper(lambda: (os.setsid(), ignore_signals(), sleep()))
signal.signal(signal.SIGTERM, breed)
helper(lambda: (os.setsid(), [(breed(), time.sleep(0.1)) for _ in range(20)]))
""",
    "parricide": """
def kill(parent):
    os.setsid()
    time.sleep(0.3)
    os.kill(parent, signal.SIGKILL)
    sleep()
helper(lambda parent=os.getppid(): kill(parent))
""",
    "jailer": """
def stop(parent):
    os.setsid()
    time.sleep(0.3)
    os.kill(parent, signal.SIGSTOP)
    sleep()
helper(lambda parent=os.getppid(): stop(parent))
""",
}
"""Source code that runs before the container serves, by name."""

NOT_REQUIRED = ("parricide", "jailer")
"""Those that may be gone, or stopped, before they have answered."""


def command(shape: str, mark: str) -> list[str]:
    """Return the command of a container; the mark is among its arguments, too."""
    program = [sys.executable, "-ISc", f"{SERVER}\n{SHAPES.get(shape, '')}\nserve()\n", mark]
    if shape == "shell":
        return ["/bin/sh", "-c", 'cd / && "$@"; exit $?', "sh", *program]
    return program


def tables(shapes: list[str], mark: str, **settings: object) -> str:
    """Return the tables of containers for a node file."""
    given = "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
    return "".join(
        f'[[runners.containers]]\nid = "{shape}"\ncommand = {json.dumps(command(shape, mark))}\n'
        f'env = {{ {MARK} = "{mark}" }}\nstartup_seconds = 60\nstop_seconds = 0.3\n'
        f"required = {json.dumps(shape not in NOT_REQUIRED)}\n{given}"
        for shape in shapes
    )


def marked(mark: str) -> dict[int, str]:
    """Return the command lines of living processes with the mark in their environment or their arguments, by pid."""
    found: dict[int, str] = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):
            folder = Path("/proc", name)
            said = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if mark.encode() in said and state not in "ZX":
                found[int(name)] = (folder / "cmdline").read_bytes()[-80:].decode(errors="replace")
    return found


def living(pids: Iterable[int]) -> set[int]:
    """Return those of the processes that live."""
    found: set[int] = set()
    for pid in pids:
        with suppress(OSError):
            if Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                found.add(pid)
    return found


def children(pid: int) -> Iterator[int]:
    """Yield the children of a process, zombies included."""
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):
            if int(Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                yield int(name)
