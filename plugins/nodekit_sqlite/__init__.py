"""The store `sqlite`: durable jobs in one file, for one node at a time."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import anyio.to_thread
import msgspec

from nodekit import (
    Clock,
    CompositionError,
    DiskSpace,
    EmbeddedStore,
    GroupId,
    NodeFile,
    PluginStorage,
    Problem,
    Provider,
    StoreCheck,
    StoreFailed,
    TableArchive,
    TableView,
    folder_problem,
)
from nodekit_sqlite._backup import FileBeside, in_a_thread
from nodekit_sqlite._compact import compact
from nodekit_sqlite._disk import FreeSpace, disk_space
from nodekit_sqlite._table import SqliteTable

__all__ = ["SqliteConfig", "SqliteStore", "SqliteTable", "provider"]

MIN_FREE_BYTES = 256 << 20
"""Free space that is left by default, for the results of running jobs, the log beside the file, and other programs."""


class SqliteConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The database file and its durability.

    - `path`: The database file; it is created, with mode 0600, together with `-wal` and `-shm` beside it.
    - `synchronous`: FULL survives a crash of the machine; NORMAL only one of the process, and is faster on slow disks.
    - `group`: Maximum number of writes that share one commit.
    - `min_free_bytes`: Free space on the disk below which the node takes no new jobs; running ones go on. 0: it takes
      them until the disk is full.
    """

    path: Path
    synchronous: Literal["FULL", "NORMAL"] = "FULL"
    group: Annotated[int, msgspec.Meta(ge=1)] = 512
    min_free_bytes: Annotated[int, msgspec.Meta(ge=0)] = MIN_FREE_BYTES


class SqliteStore(EmbeddedStore):
    """A `JobStore` in an SQLite file.

    With `synchronous` ``"FULL"``, jobs survive a crash of the machine; with ``"NORMAL"``, one of the process. Up to
    `group` writes share one commit. Below `min_free_bytes` of free space on its disk, the node takes no new jobs.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        synchronous: Literal["FULL", "NORMAL"] = "FULL",
        group: int = 512,
        min_free_bytes: int = MIN_FREE_BYTES,
        clock: Clock | None = None,
    ) -> None:
        self._path, self._synchronous = Path(path), synchronous
        self._space = FreeSpace(self._path, min_free_bytes)
        self._sqlite = SqliteTable(self._path, synchronous=synchronous, group=group)
        super().__init__(self._sqlite, clock=clock)

    def storage(self, namespace: str) -> PluginStorage:
        """Return the records of a plugin (`StoringStore`)."""
        return self._sqlite.storage(namespace)

    async def check(self) -> None:
        """Read from the file without waiting for other reads (`CheckedStore`)."""
        await self._sqlite.check()

    async def stored_bytes(self, groups: Collection[GroupId]) -> Mapping[GroupId, int]:
        """Return the number of bytes that the file holds for each of these groups (`DiskStore`)."""
        return await self._sqlite.stored_bytes(groups)

    def full(self) -> str:
        """Return how little of the disk is free, if it is too little for new jobs (`DiskStore`)."""
        return self._space.full()

    async def disk(self) -> DiskSpace:
        """Return the size of the file and the free space of its disk (`SizedStore`)."""
        return await anyio.to_thread.run_sync(disk_space, self._path, abandon_on_cancel=True)

    def nodekit_problems(self) -> Sequence[str]:
        """Return what is damaged in the file."""
        return self._sqlite.damages.problems()

    def view(self) -> TableView:
        """Return a view of the file beside its node (`ViewedStore`). Each of its calls has its own transaction.

        Until it deletes a job or changes a record, it writes nothing, and a user who may only read the file can use it.
        """
        table = SqliteTable(self._path, synchronous=self._synchronous, group=1, owned=False)
        table.damages.remember_all()
        return TableView(table)

    def archive(self, *, create: bool = False) -> TableArchive:
        """Return all that the file holds, while no node runs (`ArchivedStore`)."""
        if not create and not os.path.exists(self._path):
            raise StoreFailed(f"there is no file {self._path}; correct the path, or start the node once")
        self._sqlite.damages.remember_all()
        self._sqlite.rescues = not create
        return super().archive(create=create)

    async def verify(self) -> StoreCheck:
        """Read the whole file (`VerifyingStore`). A node may work on it meanwhile; nothing is written."""
        return await in_a_thread(self._path, lambda file, proceed: file.check(proceed))

    async def facts(self) -> Mapping[str, str | int]:
        """Return facts about the file and its disk (`DescribingStore`)."""
        return await in_a_thread(self._path, lambda file, proceed: file.facts())

    async def backup(self, target: Path, *, replace: bool = False, even_damaged: bool = False) -> int:
        """Write a copy of the file and check it (`BackupStore`). A node may work on the file meanwhile."""

        def copy(file: FileBeside, proceed: Callable[[], object]) -> int:
            return file.backup(target, replace=replace, even_damaged=even_damaged, proceed=proceed)

        return await in_a_thread(self._path, copy)

    async def compact(self) -> int:
        """Give the space of deleted jobs back to the file system (`CompactingStore`). A thread waits for the disk."""
        return await anyio.to_thread.run_sync(compact, self._path)


def from_config(config: SqliteConfig, file: NodeFile) -> SqliteStore:
    """Build the store of a node file. Raise `CompositionError` if the database's folder does not exist."""
    if os.path.isdir(config.path):
        raise CompositionError(Problem("path", f"{config.path} is a folder; name a file"))
    if text := folder_problem(config.path.parent):
        raise CompositionError(Problem("path", text))
    return SqliteStore(
        config.path, synchronous=config.synchronous, group=config.group, min_free_bytes=config.min_free_bytes
    )


provider = Provider(SqliteConfig, from_config)
