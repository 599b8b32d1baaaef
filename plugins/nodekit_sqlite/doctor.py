"""The checks of `nodekit doctor` for the database of a node file. Nothing is written or made."""

import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from nodekit import Configured, ExaminedFile, Finding
from nodekit_sqlite._examination import examined

_KINDS = "nfs nfs4 cifs smb3 smbfs 9p afs ceph glusterfs lustre beegfs gpfs ocfs2 gfs2 davfs virtiofs vboxsf"
NETWORK = frozenset(_KINDS.split(" "))
"""File systems that several machines may share, or whose locks others do not see."""


def findings(file: ExaminedFile | None = None) -> Iterator[Finding]:
    """Report what the database needs of its file and of its file system."""
    for one in file.of("store", "sqlite") if file else ():
        path: Path = one.config.path
        yield from _file_system(path)
        yield from _space(one)
        yield from _file(path)


def _file_system(path: Path) -> Iterator[Finding]:
    kind = file_system(path.parent)
    if kind in NETWORK or kind.startswith("fuse."):
        text = f"{path.parent} is on a file system of the kind {kind}: locks and the log of SQLite need a local disk"
        yield Finding("warning", "store.path", text, "keep the store on a disk of this machine")


def file_system(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Return the kind of the file system that a folder is on, such as ``ext4``; empty if it is not known."""
    try:
        lines = [line.split() for line in mounts.read_text(errors="surrogateescape").splitlines()]
        place = folder.resolve()
    except OSError:
        return ""
    found, longest = "", -1
    for words in lines:
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), words[4]))
        if place.is_relative_to(point) and len(point.parts) >= longest:  # a later mount lies on an earlier one
            found, longest = words[words.index("-") + 1], len(point.parts)
    return found


def _space(one: Configured) -> Iterator[Finding]:
    try:
        free_bytes = shutil.disk_usage(one.config.path.parent).free
    except OSError:
        return  # there is no folder, which is a problem of the file
    if free_bytes < one.config.min_free_bytes:
        text = f"its disk has {free_bytes} bytes free, and new jobs are refused below {one.config.min_free_bytes}"
        yield Finding("error", "store.min_free_bytes", text, "free some space, or lower min_free_bytes")


def _file(path: Path) -> Iterator[Finding]:
    if os.path.isdir(path):
        yield Finding("error", "store.path", f"{path} is a folder", "name a file")
        return
    saved = path.with_name(f"{path.name}.saved")
    if os.path.exists(saved) and os.path.exists(path) and path.stat().st_size:  # otherwise no node starts
        text = f"there is {saved}, with the jobs of a file that was lost"
        yield Finding("warning", "store.path", text, f"move it to {path} while no node runs, or delete it")
    try:
        found = path.stat()
    except FileNotFoundError:
        yield from examined(path)
        return
    except OSError:  # a folder that is missing or closed to this user is a problem of the file
        return
    if not stat.S_ISREG(found.st_mode):
        yield Finding("error", "store.path", f"{path} is not a file", "name a file")
        return
    if found.st_nlink > 1:
        yield Finding(
            "error", "store.path", f"{path} has another name (hard link)", "remove the other name, or copy it"
        )
    elif os.geteuid() and found.st_uid != os.geteuid():
        text = f"{path} belongs to another user"
        yield Finding("warning", "store.path", text, "run this, and the node, as its owner")
    elif found.st_mode & 0o077:
        text = f"other users may use {path}; the node takes that away when it starts"
        yield Finding("note", "store.path", text, f"chmod 600 {path}")
    yield from examined(path)
