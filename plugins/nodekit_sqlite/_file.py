"""The database file: one owner at a time, and a look whether the file that it opened is still in its place.

SQLite's own locks belong to the whole process. Closing any descriptor of the file drops them, and then another process
that closes the file deletes the log beside it. So there is one descriptor beside SQLite's own; it is opened before the
first connection and closed after the last one.
"""

import fcntl
import logging
import os
import re
import sqlite3
import stat
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Literal, TypeAlias

import msgspec

from nodekit import StoreFailed, StoreInUse, folder_problem
from nodekit_sqlite._damage import cured, is_damage

logger = logging.getLogger("nodekit.store")

FileId: TypeAlias = tuple[int, int]
"""Device and inode of a file."""

_BESIDE = ("-wal", "-shm", "-journal")
_OWNER_ONLY = 0o600
_HEADER_BYTES = 64
STAMPED = slice(60, 64)
"""Bytes of the header that hold `user_version`."""
_CHANGES = slice(24, 28)
"""Bytes of the header that hold a counter of changes. It never falls."""
_PAGE_BYTES, _PAGES = slice(16, 18), slice(28, 32)
"""Bytes of the header that hold the size of a page, where 1 is the largest, and their number."""
_LARGEST_PAGE, _LEAST_BYTES = 1 << 16, 512


class Loss(msgspec.Struct, frozen=True):
    """The loss of a file that was opened.

    - `kind`: ``moved`` files may come back; of a ``deleted`` one a copy can be made while it is open; if only its
      ``log`` is gone, the log can be written into the database; after a change of ``content``, nothing can be saved.
    """

    kind: Literal["moved", "deleted", "log", "content"]
    text: str


class _Process:
    """The descriptors of the databases that stores of this process have open."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._users: Counter[FileId] = Counter()
        self._unclosed: dict[FileId, list[int]] = {}

    def enter(self, id: FileId) -> None:
        with self._lock:
            self._users[id] += 1

    def leave(self, id: FileId) -> None:
        with self._lock:
            self._users[id] -= 1
            if not self._users[id]:
                del self._users[id]
                for descriptor in self._unclosed.pop(id, ()):
                    os.close(descriptor)

    def close(self, id: FileId, descriptor: int) -> None:
        """Close a descriptor as soon as no store of this process has its file open."""
        with self._lock:
            if id in self._users:
                self._unclosed.setdefault(id, []).append(descriptor)
            else:
                os.close(descriptor)


_process = _Process()


class DatabaseFile:
    """The file of a database. With `owned`, it is created if it is missing, and nobody else may own it meanwhile.

    The path is resolved once, when the file is opened: a link that points elsewhere later changes nothing.
    """

    def __init__(self, path: Path, *, owned: bool = True) -> None:
        self.path = path
        self._owned = owned
        self._descriptor: int | None = None
        self._id: FileId | None = None
        self._known: list[tuple[str, FileId]] = []
        self._stamps: set[bytes] = set()
        """Stamps that the header may have: the one that it had, and the one that this run writes into it."""
        self._changes = b""

    @property
    def is_open(self) -> bool:
        """True from `open` to `close`."""
        return self._id is not None

    def open(self) -> None:
        """Open and lock the file. Raise `StoreInUse` if another node has it, `StoreFailed` if it cannot be used."""
        try:
            self.path = self.path.resolve()
            id = self._open_owned() if self._owned else _regular(self.path, os.stat(self.path))
        except (OSError, RuntimeError) as error:  # RuntimeError: symbolic links in a circle
            raise StoreFailed(f"cannot open {self.path}: {_cured(error)}") from error
        _process.enter(id)
        self._id = id

    def _open_owned(self) -> FileId:
        if text := folder_problem(self.path.parent, write=True):  # SQLite writes a log beside the file
            raise StoreFailed(f"cannot open {self.path}: {text}")
        for name in _BESIDE:
            _tighten(self.path.with_name(self.path.name + name))
        check_beginning(self.path)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(self.path, flags, _OWNER_ONLY)
        found = os.fstat(descriptor)
        try:
            self._take(descriptor, found)
        except BaseException:
            _process.close(_id(found), descriptor)
            raise
        self._descriptor = descriptor
        return _id(found)

    def _take(self, descriptor: int, found: os.stat_result) -> None:
        _regular(self.path, found)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            who = f"{self.path} is held by another node{holder(found.st_ino)}"
            raise StoreInUse(f"{who}; stop it or name another path") from error
        if _id(os.lstat(self.path)) != _id(found):
            raise StoreFailed(f"{self.path} was replaced while it was opened; start the node again")
        if found.st_nlink > 1:
            text = f"{self.path} has {found.st_nlink} names (hard links), and SQLite would write a log for each of them"
            raise StoreFailed(f"{text}; delete the others, or copy the file and use the copy")
        if _is_open_to_others(self.path, found):
            with suppress(PermissionError):
                os.fchmod(descriptor, _OWNER_ONLY)

    def close(self) -> None:
        """Give the file up. Call this after the last connection was closed."""
        id, descriptor = self._id, self._descriptor
        self._id = self._descriptor = None
        self._known.clear()
        if id is not None:
            if descriptor is not None:
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # at once, even if the descriptor cannot be closed yet
            _process.leave(id)
            if descriptor is not None:
                _process.close(id, descriptor)

    # -- looking ----------------------------------------------------------------------------------

    def pin(self, stamp: bytes) -> None:
        """Remember which files are in place. The log must be open.

        `stamp` will be in the header of the file, if it is not there yet: a reader may have kept it in the log. Raise
        `StoreFailed` if the files are not those that were opened.
        """
        header = self.read(_HEADER_BYTES, 0)
        self._stamps, self._changes = {stamp, header[STAMPED]}, header[_CHANGES]
        paths = [self.path, *(self.path.with_name(self.path.name + name) for name in _BESIDE[:2])]
        try:
            self._known = [(str(path), _id(os.lstat(path))) for path in paths]
        except OSError as error:
            raise StoreFailed(f"cannot open {self.path}: {cured(error)}") from error
        if self._known[0][1] != self._id:
            raise StoreFailed(f"{self.path} was replaced while it was opened; start the node again")

    def look(self) -> Loss | None:
        """Return the loss of the file, if it is not in its place any more. This takes a few microseconds."""
        path = str(self.path)
        try:
            for path, id in self._known:
                found = os.lstat(path)
                if id != (found.st_dev, found.st_ino):
                    return self._lost(path, "another file is there")
            path = str(self.path)
            if not self._known or self._has_its_header():
                return None
        except OSError as error:
            return self._lost(path, _reason(error))
        text = f"the content of {self.path} was replaced while the node works on it"
        cure = "stop the node, delete the files -wal and -shm beside it, restore the backup again, and start the node"
        return Loss("content", f"{text}; {cure}")

    def _has_its_header(self) -> bool:
        changes = self._changes  # before the header is read: other threads look, too
        header = self.read(_HEADER_BYTES, 0)
        if header[STAMPED] not in self._stamps or header[_CHANGES] < changes:
            return False
        self._changes = header[_CHANGES]
        return True

    def read(self, size: int, at: int) -> bytes:
        """Read bytes of the file itself, without those of the log. Whoever opens it anew would drop SQLite's locks."""
        assert self._descriptor is not None
        return os.pread(self._descriptor, size, at)

    def _lost(self, path: str, why: str) -> Loss:
        assert self._descriptor is not None
        if path != str(self.path):
            return Loss("log", f"{path} was deleted or replaced while the node works on it")
        if os.fstat(self._descriptor).st_nlink == 0:
            return Loss("deleted", f"{path} was deleted or replaced while the node works on it")
        return Loss("moved", f"{path} is not in its place any more ({why}); move it back, and the node goes on")

    @property
    def place_of_a_copy(self) -> str:
        """Place from which a tool can copy the file as long as this process runs, whatever became of its name."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"


def saved_path(path: Path) -> Path:
    """Return the path of the copy that a node saves when its file is deleted."""
    return path.with_name(f"{path.name}.saved")


def is_held(path: Path) -> bool:
    """Return True if a node has the file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        return False
    except BlockingIOError:
        return True
    finally:
        _process.close(_id(os.fstat(descriptor)), descriptor)


def kept_copies(path: Path, schema: int | None = None) -> Sequence[Path]:
    """Return the copies of a file that upgrades have kept (of one schema, or of any), the newest last."""
    name = re.escape(path.name) + r"\.schema-" + (r"\d+" if schema is None else str(schema)) + r"(-\d+)?"
    with suppress(OSError):
        found = [(one.stat().st_mtime, one) for one in path.parent.iterdir() if re.fullmatch(name, one.name)]
        return [one for _, one in sorted(found)]
    return []


def _regular(path: Path, found: os.stat_result) -> FileId:
    """Return the identity of a regular file. Raise `StoreFailed` for a folder, a pipe or a device."""
    if not stat.S_ISREG(found.st_mode):
        raise StoreFailed(f"cannot open {path}: it is not a regular file; name another path")
    return _id(found)


def check_beginning(path: Path) -> None:
    """Raise `StoreFailed` if there are jobs beside a missing file. A new and empty file would forget them."""
    with suppress(FileNotFoundError):
        if os.stat(path).st_size:
            return
    saved, log = saved_path(path), path.with_name(f"{path.name}-wal")
    if os.path.exists(saved):
        text = f"there is no {path}, but {saved}, in which a node saved its jobs"
        raise StoreFailed(f"{text}; move it to {path} (or delete it, to begin with no jobs), and start the node again")
    if os.path.exists(log) and log.stat().st_size:
        text = f"there is no {path}, but {log}, its log, which has the newest changes"
        raise StoreFailed(f"{text}; move the database back to {path} (or delete the log, to begin with no jobs)")


def told(error: OSError | sqlite3.Error, path: Path) -> str:
    """Return the text of an error with a cure, as `cured` does. A file whose end is missing cannot be rescued."""
    missing = _missing_end(path) if is_damage(error) else ""
    return f"{error}: {missing}; restore a backup" if missing else cured(error)


def _missing_end(path: Path) -> str:
    """Return how much of the file is left, if it is smaller than its header says: SQLite reads nothing of it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return ""
    found = os.fstat(descriptor)
    try:
        header = os.pread(descriptor, _HEADER_BYTES, 0)
    finally:
        _process.close(_id(found), descriptor)
    page_bytes, pages = int.from_bytes(header[_PAGE_BYTES]), int.from_bytes(header[_PAGES])
    whole = max(pages * (_LARGEST_PAGE if page_bytes == 1 else page_bytes), _LEAST_BYTES)
    return f"its end is missing, it has {found.st_size} of {whole} bytes" if found.st_size < whole else ""


def _tighten(path: Path) -> None:
    """Take a file beside the database from everybody but its owner. Raise `StoreFailed` if it is a link."""
    try:
        found = _no_link(path)
    except FileNotFoundError:
        return
    if _is_open_to_others(path, found):
        with suppress(PermissionError):
            path.chmod(_OWNER_ONLY)


def _is_open_to_others(path: Path, found: os.stat_result) -> bool:
    mode = stat.S_IMODE(found.st_mode)
    if mode & ~_OWNER_ONLY:
        logger.warning("%s had the mode %04o; it is for the owner only (0600) from now on", path, mode)
    return bool(mode & ~_OWNER_ONLY)


def check_beside(path: Path) -> None:
    """Raise `StoreFailed` if a file that SQLite writes beside the database is a link."""
    for name in _BESIDE:
        with suppress(FileNotFoundError):
            _no_link(path.with_name(path.name + name))


def _no_link(path: Path) -> os.stat_result:
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        raise StoreFailed(
            f"{path} is a link or no regular file, and SQLite writes there; look where it leads, delete it"
        )
    return found


def holder(inode: int) -> str:
    """Return which process has locked a file, if the system says so."""
    with suppress(OSError):
        lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        # such as `1: FLOCK  ADVISORY  WRITE 4711 08:01:1234 0 EOF`
        found = {words[4] for words in lines if words[1] == "FLOCK" and words[5].endswith(f":{inode}")}
        if len(found) == 1:
            return f" (process {found.pop()})"
    return ""


def _id(found: os.stat_result) -> FileId:
    return found.st_dev, found.st_ino


def _cured(error: OSError | RuntimeError) -> str:
    return cured(error) if isinstance(error, OSError) else "it is a link to itself; name another path"


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
