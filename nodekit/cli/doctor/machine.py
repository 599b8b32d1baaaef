"""The checks of `nodekit doctor` for the machine."""

import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nodekit.config.findings import Finding
from nodekit.execution.descriptors import descriptor_share
from nodekit.model.limits import DEFAULTS

LITTLE_SPACE_BYTES = 1 << 30
NO_SPACE_BYTES = 50 << 20
PLENTY_OF_FILES = 1000
"""A third of the open files that is enough: one machine will hardly see more connections of clients, or calls of
containers."""
SUGGESTED_FILES = 65_536
PLAUSIBLE_YEARS = range(2025, 2100)


def python() -> Iterator[Finding]:
    """Report the version and the place of Python."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("ok", "Python", f"{version} at {sys.executable}")
    if sys.platform != "linux":
        text = (
            f"nodekit is made for Linux; on {sys.platform}, processes of the runner `process` may outlive a killed node"
        )
        yield Finding("note", "system", text)


def open_files() -> Iterator[Finding]:
    """Report the limit of this process. A node that is started in the same way has the same limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield files_finding(soft, hard, descriptor_share())


def files_finding(soft: int, hard: int, share: int | None) -> Finding:
    """Judge a limit of open files. `share` is a third of its free part, or None without a limit."""
    if share is None:
        return Finding("ok", "open files", "no limit")
    most = SUGGESTED_FILES if hard == resource.RLIM_INFINITY else min(hard, SUGGESTED_FILES)
    text = (
        f"at most {soft} at once, enough for about {share} calls of containers and as many connections of clients; "
        "further ones wait"
    )
    if share >= PLENTY_OF_FILES:
        return Finding("ok", "open files", text)
    if most > soft:
        cure = f"for more, run `ulimit -n {most}` before `nodekit serve` (systemd: LimitNOFILE={most})"
    else:
        cure = "for more, have the system's administrator raise the hard limit (see /etc/security/limits.conf)"
    return Finding("note" if share >= DEFAULTS.concurrency else "warning", "open files", text, cure)


def clock(now: float | None = None) -> Iterator[Finding]:
    """Report a clock that cannot be right. Ids and times of jobs are made of it."""
    year = time.gmtime(time.time() if now is None else now).tm_year
    if year not in PLAUSIBLE_YEARS:
        text = f"the year is {year}: jobs would get ids and times that are wrong for ever"
        yield Finding("error", "clock", text, "set the clock, and have it synchronised (systemd-timesyncd, chrony)")


def disk() -> Iterator[Finding]:
    """Report the free space of the current folder, where most stores are, and of the temporary folder."""
    for subject, find in (("current folder", Path.cwd), ("temporary folder", _temporary_folder)):
        yield _folder_finding(subject, find)


def _temporary_folder() -> Path:
    return Path(tempfile.gettempdir())


def _folder_finding(subject: str, find: Callable[[], Path]) -> Finding:
    try:
        folder = find()
        free_bytes = shutil.disk_usage(folder).free
    except OSError as error:
        reason = error.strerror or error
        return Finding(
            "error", subject, f"cannot be used: {reason}", "change to a folder that exists, or free some space"
        )
    return space_finding(subject, folder, free_bytes, writable=os.access(folder, os.W_OK))


def space_finding(subject: str, folder: Path, free_bytes: int, *, writable: bool) -> Finding:
    """Judge if a folder has room for jobs and their results."""
    text = f"{folder} has {shown_size(free_bytes)} free"
    cure = "free some space, or put the store on another disk"
    if free_bytes < NO_SPACE_BYTES:
        return Finding("error", subject, f"{text}: jobs will be refused for lack of space", cure)
    if free_bytes < LITTLE_SPACE_BYTES:
        return Finding("warning", subject, f"{text}, which large results will fill soon", cure)
    if not writable:
        return Finding("note", subject, f"{text}, but this user may not write there", "put the store elsewhere")
    return Finding("ok", subject, text)


def shown_size(number: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"
