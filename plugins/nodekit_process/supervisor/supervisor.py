"""The supervisor of one container: it starts the command, and ends all that is left of it."""

import json
import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from typing import NoReturn, TypedDict

from .descendants import descendants, kill_all, reap, signal_all
from .system import Watch, become_subreaper, close_all_but, signal_when_parent_ends

TERMINATE = b"T"
"""The node's word to a supervisor that the container should end by itself. It closes its side to have it killed."""

LISTENER = 3
"""The first descriptor that is passed on by systemd's protocol (`sd_listen_fds`)."""
NOT_STARTED = 127


class Order(TypedDict):
    """The command of a container and its surroundings."""

    command: list[str]
    env: dict[str, str]
    folder: str
    limits: list[tuple[int, int]]
    """Resources and their limits, as `setrlimit` takes them."""


def supervise(fork_server: int, order_file: int, control: int, output: int, listener: int | None) -> NoReturn:
    """Be the supervisor of a container, in a process forked for it. Signals are blocked.

    It writes ``started PID SUPERVISOR`` to `control`, and ``ended STATUS`` once nothing of the container is left.
    """
    close_all_but({control, output, order_file, *([] if listener is None else [listener])})
    become_subreaper()
    watch = Watch(fork_server)
    order: Order = json.loads(os.pread(order_file, os.fstat(order_file).st_size, 0))
    os.close(order_file)
    command = _start(order, output, listener)
    del order  # it holds secrets
    node = socket.socket(fileno=control)
    _write(node, f"started {command} {os.getpid()}\n")
    for descriptor in (output, listener):
        if descriptor is not None:
            os.close(descriptor)
    status = _watch(watch, node, command)
    ended = kill_all(group=command)
    with suppress(OSError):
        os.kill(fork_server, signal.SIGCONT)  # a container may have stopped it
    _write(node, f"ended {ended.get(command, status)}\n")
    os._exit(0)


def _watch(watch: Watch, node: socket.socket, command: int) -> int:
    """Return when the container has to end, with the status of the command if it has ended."""
    watch.add(node.fileno())
    while not watch.parent_ended:
        for _ in watch.wait():
            if _read(node) != TERMINATE:
                return signal.SIGKILL
            signal_all(descendants(os.getpid()), signal.SIGTERM, group=command)
        ended, _ = reap()
        if command in ended:
            return ended[command]
    return signal.SIGKILL


def _read(node: socket.socket) -> bytes:
    try:
        return node.recv(1)
    except OSError:
        return b""


def _write(node: socket.socket, line: str) -> None:
    with suppress(OSError):
        node.send(line.encode(), socket.MSG_DONTWAIT)


def _start(order: Order, output: int, listener: int | None) -> int:
    """Start the command; return its pid, which is also its group and session."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    supervisor = os.getpid()
    if not (pid := os.fork()):
        _become(order, supervisor, output, listener)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
    return pid


def _become(order: Order, supervisor: int, output: int, listener: int | None) -> NoReturn:
    """Become the command, in a process forked for it."""
    command, env = order["command"], order["env"]
    try:
        os.setsid()
        if not signal_when_parent_ends(signal.SIGKILL, supervisor):
            os._exit(NOT_STARTED)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        if listener is not None:
            os.dup2(listener, LISTENER)
            os.set_inheritable(LISTENER, True)
            env |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
        close_all_but({LISTENER} if listener is not None else set())
        os.chdir(order["folder"])
        for limit, value in order["limits"]:
            resource.setrlimit(limit, (value, value))
        _reset_signals()
        os.execvpe(command[0], command, env)  # noqa: S606 - the operator's own command, without a shell
    except (OSError, ValueError) as error:
        print(f"cannot run {command[0]}: {getattr(error, 'strerror', None) or error}", file=sys.stderr, flush=True)
    os._exit(NOT_STARTED)


def _reset_signals() -> None:
    """Give all signals their default effect: a program starts with those that are ignored or blocked."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
