"""The end of all descendants of this process."""

import math
import os
import signal
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import suppress

_PAUSE_SECONDS = 0.0005
_LONGEST_PAUSE_SECONDS = 0.05
_QUIET_LOOKS = 5
"""Number of looks in a row that must find nothing to kill, if there are children to be left alone."""
_PURSUITS = 200
_NEXT_PIDS = 48
_REAPED_AT_ONCE = 1000


def descendants(root: int, without: Collection[int] = ()) -> dict[int, int]:
    """Return the process groups of all living descendants, by pid; without some children and their descendants."""
    children: dict[int, list[tuple[int, int, bool]]] = {}
    for pid, parent, group, living in _processes():
        children.setdefault(parent, []).append((pid, group, living))
    found: dict[int, int] = {}
    parents = [root]
    while parents:
        for pid, group, living in children.get(parents.pop(), ()):
            if pid not in without:
                parents.append(pid)
                if living:
                    found[pid] = group
    return found


def _processes() -> Iterator[tuple[int, int, int, bool]]:
    """Yield pid, parent, group, and True if it is no zombie, of all processes."""
    try:
        names = os.listdir("/proc")
    except OSError:  # not Linux
        return
    for name in names:
        if name.isdecimal():
            with suppress(OSError, ValueError), open(f"/proc/{name}/stat", "rb") as file:
                state, parent, group, *_ = file.read().rpartition(b")")[2].split()
                yield int(name), int(parent), int(group), state not in (b"Z", b"X")


def reap() -> tuple[dict[int, int], bool]:
    """Reap children that have ended. Return their statuses, as `waitpid` gives them, and True if a child is left."""
    ended: dict[int, int] = {}
    try:
        while len(ended) < _REAPED_AT_ONCE:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            ended[pid] = status
    except ChildProcessError:
        return ended, False
    return ended, True


def signal_all(processes: dict[int, int], number: signal.Signals, *, group: int | None = None) -> set[int]:
    """Signal processes and their groups. Return those that may not be signalled.

    A whole group gets the signal at once, so that none of it forks meanwhile. `group` stands for all of them on systems
    on which the descendants are not known.
    """
    denied: set[int] = set()
    groups = set(processes.values()) - {0, os.getpgrp()}
    if group is not None and sys.platform != "linux":
        groups = {group}
    for group in groups:
        with suppress(OSError):
            os.killpg(group, number)
    for pid in processes:
        try:
            os.kill(pid, number)
        except PermissionError:
            denied.add(pid)
        except ProcessLookupError:
            pass
    return denied


def kill_all(without: Collection[int] = (), *, group: int | None = None, seconds: float = math.inf) -> dict[int, int]:
    """Kill and reap all descendants, again and again until none is left. Return the statuses of children.

    This process is a subreaper, so it has a child for as long as it has a descendant. `without` are children to leave
    alone; `group` is that of `signal_all`. It gives up after some seconds: a process that hangs in the kernel ends when
    that lets it. Processes that have gained the rights of another user by the start of a program are left, too, if this
    user may not signal them.
    """
    ended: dict[int, int] = {}
    quiet, pause, end = 0, 0.0, time.monotonic() + seconds
    while quiet < _QUIET_LOOKS and time.monotonic() < end:
        reaped, is_left = _pursue(without)
        ended |= reaped
        if not is_left:
            break
        found = descendants(os.getpid(), without)
        denied = signal_all(found, signal.SIGKILL, group=group)
        is_quiet = found.keys() == denied and not reaped.keys() - set(without)
        quiet = quiet + 1 if is_quiet and (denied or without) else 0
        pause = 0.0 if reaped else min(2 * pause + _PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        time.sleep(pause)
    return ended


def _pursue(without: Collection[int]) -> tuple[dict[int, int], bool]:
    """Reap children, and kill those that have just become ones, until no more end at once. Return as `reap` does.

    A process that only forks and exits has another pid before all processes have been looked at. Its child becomes a
    child of this process, which can be asked for quickly, and has one of the next pids.
    """
    ended: dict[int, int] = {}
    for _ in range(_PURSUITS):
        reaped, is_left = reap()
        ended |= reaped
        if not reaped or not is_left:
            return ended, is_left
        newest = max(reaped)
        for pid in range(newest + 1, newest + _NEXT_PIDS):
            if pid not in without and _is_living_child(pid):
                with suppress(PermissionError):
                    os.kill(pid, signal.SIGKILL)
    return ended, True


def _is_living_child(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except OSError:  # it is no child
        return False
