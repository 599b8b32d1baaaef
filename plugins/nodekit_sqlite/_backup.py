"""Work on a file for its operator, beside its node or while none runs: a backup, a check, facts."""

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Self, TypeVar

import anyio
import anyio.to_thread
from anyio import from_thread

from nodekit import StoreCheck, StoreFailed
from nodekit_sqlite._beside import Beside
from nodekit_sqlite._file import DatabaseFile, is_held, told
from nodekit_sqlite._new_file import check_space, check_target, copy_database, new_file
from nodekit_sqlite._schema import MIGRATIONS, check_version, schema_of
from nodekit_sqlite._verify import verify

T = TypeVar("T")

_NOTHING = "nothing is left of it"


class Stopped(Exception):
    """Nobody waits for the work any more."""


async def in_a_thread(path: Path, work: Callable[["FileBeside", Callable[[], object]], T]) -> T:
    """Work on a file in a thread. The function gets the file, and another one to call now and then.

    That one raises once the caller has gone: cancelled here, or, by Ctrl-C, without a word to the thread.
    """
    gone, begun, ended = Event(), Event(), Event()

    def proceed() -> None:
        from_thread.check_cancelled()
        if gone.is_set():
            raise Stopped

    def run() -> T:
        begun.set()
        try:
            proceed()
            with FileBeside(path) as file:
                return work(file, proceed)
        finally:
            ended.set()

    try:
        return await anyio.to_thread.run_sync(run)
    except BaseException:
        gone.set()
        if begun.is_set():  # it deletes what it has begun
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(ended.wait)
        raise


class FileBeside:
    """A file that is read beside its node, or while none runs, and is not written."""

    def __init__(self, path: Path) -> None:
        self._file = DatabaseFile(path, owned=False)
        self._reads = Beside(lambda: self._file.path)

    def __enter__(self) -> Self:
        self._file.open()
        self._reads.open()
        return self

    def __exit__(self, *error: object) -> None:
        self._reads.close()
        self._file.close()

    def check(self, proceed: Callable[[], object]) -> StoreCheck:
        """Read everything and return what is wrong."""
        with _failures(f"cannot check {self._file.path}", self._file.path):
            self._reads.read(lambda connection: check_version(connection, self._file.path))
            return verify(self._reads, proceed)

    def pages(self) -> list[str]:
        """Return what is wrong with the pages and indexes, or ``ok``."""
        return self._reads.read(lambda c: [str(text) for (text,) in c.execute("PRAGMA integrity_check")])

    def facts(self) -> Mapping[str, str | int]:
        """Return facts about the file."""
        path = self._file.path
        log = path.with_name(f"{path.name}-wal")
        with _failures(f"cannot read {path}", path):
            schema = self._reads.read(lambda connection: schema_of(connection, path))
            size, free, records = self._reads.read(_sizes)
            disk = os.statvfs(path.parent)
            return {
                "file": str(path),
                "schema": schema,
                "file_bytes": path.stat().st_size,
                "log_bytes": log.stat().st_size if os.path.exists(log) else 0,
                "free_bytes_in_file": free * size,
                "free_bytes_of_disk": disk.f_bavail * disk.f_frsize,
                "plugin_records": records,
            }

    def backup(self, target: Path, *, replace: bool, even_damaged: bool, proceed: Callable[[], object]) -> int:
        """Copy the file, check the copy, and give it its name. Return its size. `proceed` is called now and then."""
        path = self._file.path
        target = target.parent.resolve() / target.name
        _check_unused(target, path)
        check_target(target, replace=replace)
        with _failures(f"cannot back up {path} to {target}", path):
            schema = self._reads.read(lambda connection: schema_of(connection, path))
            if not schema:
                text = f"{path} is empty: no node has started with it yet"
                raise StoreFailed(f"{text}; start its node once, or correct the path")
            check_space(target.parent, path.stat().st_size, f"the backup of {path}")
            with new_file(target, replace=replace) as partial:
                self._reads.read(lambda connection: _copy(connection, partial, path, proceed))
                problems = _problems(partial, schema, proceed)
                if problems and not even_damaged:
                    some = "; ".join(problems[:3])
                    text = f"the store is damaged, and no backup was kept: {some}"
                    raise StoreFailed(f"{text}; see `nodekit store check`, or keep it with --even-damaged")
                size = partial.stat().st_size
        return size


def _copy(connection: sqlite3.Connection, partial: Path, path: Path, proceed: Callable[[], object]) -> None:
    os.truncate(partial, 0)  # what a node that began to work on the file has spoilt
    copy_database(connection, partial, owner=path.stat(), proceed=proceed)


def _problems(copy: Path, schema: int, proceed: Callable[[], object]) -> list[str]:
    """Return what is wrong with a copy. Of an earlier schema, the pages and indexes are checked, and no records."""
    with FileBeside(copy) as file:
        if schema == len(MIGRATIONS):
            return [*file.check(proceed).problems]
        return [text for text in file.pages() if text != "ok"]


def _check_unused(target: Path, path: Path) -> None:
    """Raise `StoreFailed` for a target that a node uses: this one, or another one."""
    if target in (path, *(path.with_name(f"{path.name}{end}") for end in ("-wal", "-shm", "-journal"))):
        raise StoreFailed(f"{target} is a file of the store itself; name another file")
    if os.path.exists(target):
        if target.samefile(path):
            raise StoreFailed(f"{target} is the store itself; name another file")
        if is_held(target):
            raise StoreFailed(f"{target} is the store of a running node; name another file")


def _sizes(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """Return the size of a page, the number of free ones, and the number of records of plugins."""
    ((size,),) = connection.execute("PRAGMA page_size")
    ((free,),) = connection.execute("PRAGMA freelist_count")
    ((records,),) = connection.execute("SELECT count(*) FROM plugin_records")
    return size, free, records


@contextmanager
def _failures(what: str, path: Path) -> Iterator[None]:
    """Raise `StoreFailed` for what the system or SQLite refuses."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise StoreFailed(f"{what}: {told(error, path)}") from error
