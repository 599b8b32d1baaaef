"""The node's process among others on its machine."""

import ctypes
import os
import signal
import sys
from contextlib import suppress
from typing import Never

_PR_SET_DUMPABLE = 4

PASSED_ON = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}


def hide_memory() -> None:
    """Keep other processes of the same user, such as containers, from reading the environment and memory of this one.

    Root can still do so. It also means that there are no core dumps, and that only root can attach a debugger.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def leave_pid_1() -> None:
    """Fork if this is process 1 of a machine or container, and return in the child. Process 1 ends like the child.

    The kernel gives all orphans to process 1, which has to reap them. A node cannot do that itself: it would take the
    exit codes of children that its plugins wait for.
    """
    if os.getpid() != 1:
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    node = os.fork()
    if node:
        _be_init(node)
    os.setpgid(0, 0)  # a terminal signals its foreground group; the node gets each signal from process 1 only
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())


def _be_init(node: int) -> Never:
    """Pass signals on and reap until the node has ended. Then end as it did; the kernel kills all that is left."""
    while True:
        _reap(node)
        received = signal.sigwait({signal.SIGCHLD, *PASSED_ON})
        if received != signal.SIGCHLD:
            with suppress(ProcessLookupError):
                os.kill(node, received)


def _reap(node: int) -> None:
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == node:
                code = os.waitstatus_to_exitcode(ended[1])
                os._exit(code if code >= 0 else 128 - code)
