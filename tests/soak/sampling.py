"""Samples of what a node takes of its machine while it works."""

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from soak.judge import Series

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Samples:
    """Series by key, with times since the begin of the soak."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._series: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)

    @property
    def now(self) -> float:
        return time.monotonic() - self._began

    def add(self, **values: float) -> None:
        for key, value in values.items():
            self._series[key].append((self.now, value))

    def series(self, key: str) -> Series:
        return self._series.get(key, [])


def taken(pid: int, folder: Path) -> dict[str, float]:
    """Return what a node and everything under it take. Nothing is returned for a process that is gone."""
    levels = list(_levels(pid))
    found = {
        "node": _resident(pid),
        "threads": _threads(pid),
        "supervision": sum(map(_resident, (one for level in levels[:2] for one in level))),
        "containers": sum(map(_resident, (one for level in levels[2:] for one in level))),
        "processes": sum(map(len, levels)),
        "disk": sum(_size(path) for path in folder.iterdir() if path.name.startswith(("jobs.db", "node.log"))),
    }
    with suppress(PermissionError, FileNotFoundError):  # a node hides its descriptors from others than root
        found["descriptors"] = len(os.listdir(f"/proc/{pid}/fd"))
    return found if found["node"] else {}


def _levels(pid: int) -> Iterator[list[int]]:
    """Yield the children of a process, then theirs, and so on: of a node its fork server, supervisors, containers."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):
            children[int(Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[1])].append(int(name))
    level = children[pid]
    while level:
        yield level
        level = [child for one in level for child in children[one]]


def _resident(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    return 0


def _threads(pid: int) -> int:
    with suppress(OSError):
        return len(os.listdir(f"/proc/{pid}/task"))
    return 0


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0
