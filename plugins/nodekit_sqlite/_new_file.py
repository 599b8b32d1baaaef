"""Copies of a database as new files. A copy gets its name once it is complete and on the disk."""

import fcntl
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from nodekit import StoreFailed, counted, folder_problem

_PAGES = 256
"""Number of pages that are copied at once: 1 MiB."""
_PAUSE = 0.5
"""Pause after each of them, in parts of the time that it took: others use the disk, too."""
_BESIDE = ("-wal", "-shm", "-journal")


def copy_database(
    source: sqlite3.Connection, path: Path, *, owner: os.stat_result | None = None, proceed: Callable[[], object]
) -> None:
    """Copy the database of a connection into an existing empty file, as it is at this moment.

    A node that writes meanwhile is not held up: it writes into its log. `proceed` is called after each slice; what it
    raises ends the copy.
    """
    began = time.monotonic()

    def pause(status: int, remaining: int, total: int) -> None:
        nonlocal began
        proceed()
        time.sleep(min(1.0, (time.monotonic() - began) * _PAUSE) if remaining else 0)
        began = time.monotonic()

    source.execute("BEGIN")
    try:
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()  # from here on, what others write is not seen
        with closing(sqlite3.connect(path, isolation_level=None)) as made:
            made.execute("PRAGMA journal_mode = OFF").fetchall()
            made.execute("PRAGMA synchronous = OFF")
            began = time.monotonic()
            source.backup(made, pages=_PAGES, progress=pause)
    finally:
        source.execute("ROLLBACK")
    if owner is not None:
        with suppress(PermissionError):
            os.chown(path, owner.st_uid, owner.st_gid)
    _sync(path)


def check_target(path: Path, *, replace: bool) -> None:
    """Raise `StoreFailed` if no new file can be made there, or if SQLite would mix it with what is beside it."""
    if text := folder_problem(path.parent, write=True):
        raise StoreFailed(text)
    with suppress(FileNotFoundError):
        found = os.lstat(path)
        if not replace:
            raise StoreFailed(f"{path} exists already; name another file, or replace it with --force")
        if not stat.S_ISREG(found.st_mode):
            raise StoreFailed(f"{path} is no regular file, and is not replaced; name another file")
    for name in _BESIDE:
        beside = path.with_name(path.name + name)
        if os.path.lexists(beside):
            text = f"{beside} exists: {path} is the store of a node, and its newest jobs are in there"
            raise StoreFailed(f"{text}; name another file")


def check_space(folder: Path, needed: int, purpose: str) -> None:
    """Raise `StoreFailed` if a file system has less than so many bytes free."""
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    if free < needed:
        text = f"{purpose} needs {counted(needed, 'byte')}, and the disk of {folder} has {counted(free, 'byte')} free"
        raise StoreFailed(f"{text}; free some space")


@contextmanager
def new_file(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Provide an empty file beside `path`, which takes its place at the end, unless the body raises.

    The name is that of `path` with `.partial`. What an earlier run left there is deleted; only one runs at a time.
    """
    partial = path.with_name(f"{path.name}.partial")
    with suppress(FileNotFoundError), _opened(partial, os.O_NONBLOCK):
        partial.unlink()
    with _opened(partial, os.O_CREAT | os.O_EXCL):
        try:
            yield partial
            _place(partial, path, replace)
        except BaseException:
            with suppress(FileNotFoundError):
                partial.unlink()
            raise


@contextmanager
def _opened(partial: Path, flags: int) -> Iterator[None]:
    """Open and lock a file as long as the body runs. Raise `StoreFailed` if another process has locked it."""
    descriptor = os.open(partial, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreFailed(f"{partial} is being written by another process; wait for it") from error
        yield
    finally:
        os.close(descriptor)


def _place(partial: Path, path: Path, replace: bool) -> None:
    if replace:
        partial.replace(path)
    else:
        try:
            os.link(partial, path, follow_symlinks=False)  # unlike a rename, it never replaces a file
        except FileExistsError as error:
            raise StoreFailed(f"{path} exists already; name another file") from error
        except OSError as error:  # a file system without hard links
            if os.path.lexists(path):
                raise StoreFailed(f"{path} exists already; name another file") from error
            partial.rename(path)
        else:
            partial.unlink()
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
