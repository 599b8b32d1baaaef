"""Calls of the kernel that Python has no function for, and a poll that signals wake up."""

import ctypes
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 1, 4, 36

PARENT_ENDED = signal.SIGUSR1
"""The signal that a fork server or a supervisor gets when its parent has ended."""
WAKING = (signal.SIGCHLD, PARENT_ENDED)
IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)
"""Signals that others send to a whole group or unit. The node alone says when its containers end."""


def become_subreaper() -> None:
    """Become the parent of all descendants whose own parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def hide_memory() -> None:
    """Keep other processes of the same user from reading this one's memory, and from tracing it."""
    _prctl(_PR_SET_DUMPABLE, 0)


def signal_when_parent_ends(number: signal.Signals, parent: int) -> bool:
    """Have the kernel send a signal when the parent has ended. Return False if it has ended already."""
    _prctl(_PR_SET_PDEATHSIG, number)
    return os.getppid() == parent


def _prctl(option: int, value: int) -> None:
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0):
        print(f"prctl({option}): {os.strerror(ctypes.get_errno())}", file=sys.stderr, flush=True)


class Watch:
    """A poll that also ends when a child has ended, or the parent."""

    def __init__(self, parent: int) -> None:
        """Handle signals from now on. They must be blocked until then, so that none goes to an earlier handler."""
        self._poll = select.poll()
        self._woken, wakes = os.pipe()
        self.parent_ended = False
        for end in (self._woken, wakes):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)
        for number in WAKING:
            signal.signal(number, self._handle)
        self.parent_ended = not signal_when_parent_ends(PARENT_ENDED, parent)
        self.add(self._woken)
        self._parent = self._watch_parent(parent)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())

    def add(self, descriptor: int, events: int = select.POLLIN) -> None:
        self._poll.register(descriptor, events)

    def remove(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)

    def wait(self, seconds: float | None = None) -> Iterator[int]:
        """Wait for one of the descriptors, or a signal. Yield the descriptors that are ready."""
        for descriptor, _ in self._poll.poll(None if seconds is None else 1000 * seconds):
            if descriptor == self._woken:
                os.read(self._woken, 1 << 12)
            elif descriptor == self._parent:
                self.parent_ended = True
            else:
                yield descriptor

    def _handle(self, number: int, _frame: object) -> None:
        self.parent_ended |= number == PARENT_ENDED

    def _watch_parent(self, parent: int) -> int | None:
        """Watch the parent by a descriptor, too: its thread may end before it, and a fork of it may hold the pipes."""
        try:
            descriptor = os.pidfd_open(parent)
        except (AttributeError, OSError):
            return None
        self.add(descriptor)
        return descriptor


def close_all_but(kept: set[int]) -> None:
    """Close all descriptors but standard input, output and error, and those that are kept."""
    try:
        descriptors = set(map(int, os.listdir("/proc/self/fd")))
    except OSError:  # not Linux
        descriptors = set(range(3, os.sysconf("SC_OPEN_MAX")))
    for descriptor in descriptors - kept - {0, 1, 2}:
        with suppress(OSError):  # the one that the list was read from
            os.close(descriptor)
